import time, uuid
from tests.live.test_clients_that_leave import *
from tests.live.test_clients_that_leave import Caller, Leaving, on_record, leases, counters
def long(connection):
    connection.sendall(hostile.head_of_stream() + hostile.event("one "))
    for _ in range(2000):
        time.sleep(0.05); connection.sendall(b": x\n\n")
def long_whole(connection):
    time.sleep(100)
hostile.BEHAVIOURS["stream-long"] = long
hostile.BEHAVIOURS["whole-long"] = long_whole
def test_zz_stop_view(stack, upstream):
    gateway = stack.start_gateway(lane=False, SPOOL_DIR=str(stack.folder / f"spool-{uuid.uuid4()}"), drain_seconds=1)
    callers = [Caller(gateway, upstream, Leaving("stream-long", b"one ", (), ()), "cancel"), Caller(gateway, upstream, Leaving("whole-long", b"", (), ()), "cancel")]
    for c in callers:
        c.service.deadline_seconds = 200; c.service.save()
        gateway.wait_for_service(c.service.id, c.text)
        c.call()
    wait_for(lambda: len(upstream.calls) >= 2)
    callers[1].leave()
    time.sleep(0.5)
    t = time.monotonic()
    gateway.terminate()
    wait_for(lambda: not gateway.child.running, seconds=60)
    print("stopped after", time.monotonic() - t)
    for c in callers:
        row = on_record(c.key)
        print(c.leaving.behaviour, row.status, row.error, row.total_tokens, row.settlement, counters(stack, c.key, c.service))
