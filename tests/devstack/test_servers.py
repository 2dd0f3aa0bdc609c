"""PostgreSQL and Valkey from wheels: private, on loopback, and the same data after whatever ends them."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import redis

from devstack.errors import DevstackError
from devstack.lock import FolderLock, is_alive
from devstack.ports import is_free
from devstack.postgres import Postgres
from devstack.server import Server
from devstack.valkey import Valkey


def query(server: Postgres, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(server.url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def client_of(server: Valkey, *, seconds: float = 20) -> "redis.Redis":
    return redis.Redis.from_url(server.url, socket_timeout=seconds)


def addresses(pid: int) -> set[str]:
    """What `pid` listens on, as /proc has it: address in hexadecimal, and port."""
    sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    lines = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    fields = [line.split() for line in lines if " 0A " in line]
    return {field[1] for field in fields if f"socket:[{field[9]}]" in sockets}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_postgres_is_made_as_the_application_expects_it(own_postgres: Postgres) -> None:
    names = ("server_encoding", "TimeZone", "fsync", "password_encryption")
    settings = query(own_postgres, "SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    assert settings == [("UTF8", "UTC", "on", "scram-sha-256")]
    superuser = query(own_postgres, "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user")
    assert superuser == [(False, True)]


def test_postgres_wants_its_password(own_postgres: Postgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(own_postgres.url.replace("@", "x@"))
    assert mode(own_postgres.folder / "passwords.json") == 0o600


def test_valkey_keeps_what_it_is_told_and_wants_its_password(own_valkey: Valkey) -> None:
    wanted = {
        "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": "",
        "bind": "127.0.0.1",
    }  # fmt: skip
    client = client_of(own_valkey)
    assert {name: client.config_get(name)[name] for name in wanted} == wanted
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=own_valkey.port).ping()
    assert mode(own_valkey.folder / "password") == 0o600
    command_line = Path(f"/proc/{own_valkey.pid}/cmdline").read_text()
    assert own_valkey.url.split("@")[0].rpartition(":")[2] not in command_line


def test_servers_listen_on_loopback_only(own_postgres: Postgres, own_valkey: Valkey) -> None:
    servers: list[Server] = [own_postgres, own_valkey]
    for server in servers:
        assert addresses(server.pid) == {f"0100007F:{server.port:04X}"}


def test_postgres_keeps_data_and_address_over_restart_and_kill(own_postgres: Postgres) -> None:
    url = own_postgres.url
    query(own_postgres, "CREATE TABLE kept AS SELECT 1 AS value")
    own_postgres.restart()
    query(own_postgres, "INSERT INTO kept VALUES (2)")
    own_postgres.kill()
    assert not own_postgres.running
    own_postgres.start()
    assert own_postgres.url == url
    assert query(own_postgres, "SELECT value FROM kept ORDER BY 1") == [(1,), (2,)]


def test_valkey_keeps_data_and_address_over_restart_and_kill(own_valkey: Valkey) -> None:
    url = own_valkey.url
    client_of(own_valkey).incr("kept")
    own_valkey.restart()
    client = client_of(own_valkey)
    client.incr("kept")
    client.waitaof(1, 0, 0)  # for up to two seconds it may answer before it writes
    own_valkey.kill()
    own_valkey.start()
    assert own_valkey.url == url
    assert client_of(own_valkey).get("kept") == b"2"


def test_an_erased_server_starts_empty_at_the_same_address(own_valkey: Valkey) -> None:
    url = own_valkey.url
    client_of(own_valkey).set("lost", 1)
    with pytest.raises(DevstackError):
        own_valkey.erase()
    own_valkey.kill()
    own_valkey.erase()
    own_valkey.start()
    assert (own_valkey.url, client_of(own_valkey).dbsize()) == (url, 0)


def test_a_paused_server_answers_when_it_goes_on(own_valkey: Valkey) -> None:
    client = client_of(own_valkey, seconds=1)
    client.ping()
    own_valkey.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    own_valkey.resume()
    assert client_of(own_valkey).ping() is True


def test_a_paused_server_can_be_stopped(own_valkey: Valkey) -> None:
    own_valkey.pause()
    own_valkey.stop()
    assert not own_valkey.running


def test_a_busy_port_is_left_to_its_owner(own_valkey: Valkey, tmp_path: Path) -> None:
    second = Valkey(tmp_path / "second")
    second.folder.mkdir()
    (second.folder / "port").write_text(str(own_valkey.port))
    second.start()
    try:
        assert second.port != own_valkey.port
        assert int((second.folder / "port").read_text()) == second.port
    finally:
        second.stop()


def test_a_server_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "valkey", settings={"no-such-setting": "1"})
    with pytest.raises(DevstackError, match="Valkey did not start") as caught:
        server.start()
    assert "\n" not in str(caught.value)


def test_postgres_data_without_its_password_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DevstackError, match=r"passwords\.json is gone"):
        Postgres(tmp_path).start()


def test_the_number_of_a_stranger_in_the_pid_file_does_not_stop_postgres(own_postgres: Postgres) -> None:
    own_postgres.stop()
    (own_postgres.data / "postmaster.pid").write_text(f"{os.getpid()}\n/nowhere\n")
    own_postgres.start()
    assert query(own_postgres, "SELECT 1") == [(1,)]


OWNER = """
import sys, time
from pathlib import Path
from devstack.lock import FolderLock
from devstack.postgres import Postgres
from devstack.valkey import Valkey
folder = Path(sys.argv[1])
lock = FolderLock(folder)
lock.acquire()
for server in (Postgres(folder / "postgres", inherit=[lock.descriptor]),
               Valkey(folder / "valkey", inherit=[lock.descriptor])):
    server.start()
    print(server.pid, server.port, flush=True)
time.sleep(600)
"""


def test_servers_and_their_lock_die_with_who_started_them(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    found = [[int(word) for word in owner.stdout.readline().split()] for _ in range(2)]
    lock = FolderLock(tmp_path)
    with pytest.raises(DevstackError, match=f"in use by process {owner.pid}"):
        lock.acquire()
    owner.kill()
    owner.wait()
    lock.acquire()
    lock.release()
    assert [is_alive(pid) or not is_free(port) for pid, port in found] == [False, False]
