"""How long a gateway believes the states of keys that it holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections

from common import clock
from common.errors import Problem, Unavailable
from keys import states
from keys.errors import InvalidKey
from keys.keyring import Keyring
from keys.models import ApiKey
from keys.proofs import Proofs
from tests import factories
from tests.committed import audit_trail_may_be_emptied, committed
from tests.harness.proxy import Proxy

__all__ = ["audit_trail_may_be_emptied", "committed"]

HERE = "192.0.2.1"
READ = 0.3
make_key = sync_to_async(factories.make_key)


@pytest.fixture
def way_to_postgres(committed: None) -> Iterator[Proxy]:
    """The keyring's own connection goes through here; the test's does not."""
    with Proxy(int(connection.settings_dict["PORT"])) as proxy:
        yield proxy


@pytest.fixture
async def ring(way_to_postgres: Proxy) -> AsyncIterator[Keyring]:
    proofs = Proofs()
    ring = Keyring(proofs)
    ring._reader.submit(_go_through, way_to_postgres.port).result()
    yield ring
    ring.close()
    ring._reader.shutdown()
    proofs.close()
    await sync_to_async(connections.close_all)()


def _go_through(port: int) -> None:
    connection.close()
    connection.settings_dict = {**connection.settings_dict, "PORT": str(port)}


async def revoke(key: ApiKey) -> None:
    await ApiKey.objects.filter(id=key.id).aupdate(revoked_at=clock.now())


async def refusal_of(ring: Keyring, text: str) -> tuple[type[Problem], float, list[float]]:
    """Use a key until it is refused: how, when that call was made, and when those that were accepted before."""
    accepted: list[float] = []
    while True:
        asked_at = time.monotonic()
        try:
            await ring.authenticate(text, HERE)
        except Problem as error:
            return type(error), asked_at, accepted
        accepted.append(asked_at)
        await asyncio.sleep(0.02)


async def test_while_the_channel_is_heard_a_state_is_not_read_again(
    ring: Keyring, way_to_postgres: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "SILENCE_SECONDS", 2.0)  # a machine may stall
    ring.heard(time.monotonic())
    _, text = await make_key()
    await ring.authenticate(text, HERE)
    way_to_postgres.refuse()
    way_to_postgres.cut()
    for _ in range(6):
        await asyncio.sleep(0.35)
        ring.heard(time.monotonic())
        await ring.authenticate(text, HERE)


async def test_after_a_second_of_silence_the_state_is_read_again(ring: Keyring) -> None:
    ring.heard(time.monotonic() - states.SILENCE_SECONDS)
    key, text = await make_key()
    await ring.authenticate(text, HERE)
    await asyncio.sleep(0)
    await revoke(key)
    revoked_at = time.monotonic()
    refused, _, accepted = await refusal_of(ring, text)
    assert refused is InvalidKey
    assert max(accepted, default=0) < revoked_at + states.SILENCE_SECONDS


async def test_after_a_reconnect_the_state_is_read_again_and_the_proof_stays(
    ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.heard(time.monotonic() + 60)
    key, text = await make_key()
    await ring.authenticate(text, HERE)
    monkeypatch.setattr("keys.proofs.verify_secret", None)
    await ApiKey.objects.filter(id=key.id).aupdate(name="changed while nobody listened")
    ring.doubt_all()
    await ring.authenticate(text, HERE)
    await revoke(key)
    ring.doubt_all()
    with pytest.raises(InvalidKey):
        await ring.authenticate(text, HERE)


@pytest.mark.parametrize("how", ["refused", "hanging"])
async def test_with_both_channels_cut_a_key_is_believed_for_a_while_and_then_no_more(
    ring: Keyring, way_to_postgres: Proxy, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(states, "UNCONFIRMED_SECONDS", 3.0)
    monkeypatch.setattr(states, "READ_SECONDS", READ)
    key, text = await make_key()
    _, stranger = await make_key(key.consumer, key.service)
    ring.heard(time.monotonic())
    await ring.authenticate(text, HERE)
    await revoke(key)
    if how == "refused":
        way_to_postgres.refuse()
        way_to_postgres.cut()
    else:
        way_to_postgres.pause()
    heard_at = time.monotonic()
    ring.heard(heard_at)

    # Nobody could tell of the revocation: accepted until the bound, and never after it.
    refused, asked_at, accepted = await refusal_of(ring, text)
    assert refused is Unavailable
    assert heard_at + 3.0 - READ <= asked_at
    assert max(accepted) < heard_at + 3.0
    assert len(accepted) > 10
    with pytest.raises(Unavailable):
        await ring.authenticate(stranger, HERE)

    way_to_postgres.accept()
    way_to_postgres.resume()
    while refused is Unavailable:
        refused, _, _ = await refusal_of(ring, text)
    assert refused is InvalidKey


async def test_a_reconnect_says_nothing_of_what_was_held_before_it(
    ring: Keyring, way_to_postgres: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held until the old connection fell silent; the new one has heard of nothing that happened in between."""
    monkeypatch.setattr(states, "UNCONFIRMED_SECONDS", 5.0)
    monkeypatch.setattr(states, "READ_SECONDS", READ)
    ring.heard(time.monotonic() + 60)
    _, text = await make_key()
    await ring.authenticate(text, HERE)
    ring.heard(time.monotonic() - 5.5)
    way_to_postgres.refuse()
    way_to_postgres.cut()
    ring.doubt_all()
    ring.heard(time.monotonic())
    with pytest.raises(Unavailable):
        await ring.authenticate(text, HERE)


def test_the_bound_is_what_was_promised() -> None:
    assert (states.SILENCE_SECONDS, states.UNCONFIRMED_SECONDS) == (1.0, 30.0)


async def test_states_that_are_held_are_bounded(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "MOST_STATES", 2)
    ring.heard(time.monotonic() + 60)
    texts = [(await make_key())[1] for _ in range(4)]
    for text in texts:
        await ring.authenticate(text, HERE)
    held = ring._states
    assert len(held.held) == 2
    assert sum(map(len, held._by_consumer.values())) == 2
    for text in texts:
        await ring.authenticate(text, HERE)
