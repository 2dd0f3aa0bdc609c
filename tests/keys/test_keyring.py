"""Keys as text, and what a gateway remembers of them."""

import asyncio
import datetime as dt
import hashlib
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import redis.asyncio
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections

from accounts.budgets import Budget
from accounts.models import Consumer
from common import clock
from common.errors import CredentialsMissing, Problem, Unavailable
from keys import proofs as proofs_module
from keys.errors import InvalidKey, ScopeMissing
from keys.format import mint, parse
from keys.grants import KeyLimits
from keys.hashing import hash_secret, verify_secret
from keys.keyring import Keyring
from keys.models import ApiKey
from keys.proofs import Proofs
from keys.shared_proofs import SharedProofs
from tests import factories
from tests.committed import audit_trail_may_be_emptied, committed
from tests.key_texts import text_of

__all__ = ["audit_trail_may_be_emptied", "committed"]

HERE = "192.0.2.1"


def test_a_minted_key_is_parsed_into_what_it_was_made_of() -> None:
    new = mint()
    parsed = parse(new.text)
    assert parsed is not None
    assert (parsed.environment, parsed.public_id, parsed.secret) == ("live", new.public_id, new.secret)
    assert len(new.secret) == 43
    assert new.text.startswith("mk_live_")
    assert mint("test").text.startswith("mk_test_")


def test_any_changed_character_makes_it_no_key() -> None:
    text = mint().text
    for position in range(len(text)):
        other = "a" if text[position] != "a" else "b"
        assert parse(text[:position] + other + text[position + 1 :]) is None, position


def test_a_right_checksum_does_not_help_a_forged_tag(settings: Any) -> None:
    text = mint().text
    settings.KEY_PEPPERS = {1: b"another pepper"}
    assert parse(text) is None


def test_keys_under_an_older_pepper_stay_valid(settings: Any) -> None:
    old = mint().text
    settings.KEY_PEPPERS = {**settings.KEY_PEPPERS, 2: b"the next pepper"}
    assert parse(old) is not None
    new = mint().text
    assert parse(new) is not None
    settings.KEY_PEPPERS = {1: settings.KEY_PEPPERS[1]}
    assert parse(new) is None


def closed(ring: Keyring) -> None:
    ring.close()
    ring._reader.shutdown()
    ring._proofs.close()


@pytest.fixture
async def ring(committed: None) -> AsyncIterator[Keyring]:
    ring = Keyring(Proofs())
    ring.heard(time.monotonic() + 60)  # no channel falls silent here: see test_states
    yield ring
    closed(ring)
    await sync_to_async(connections.close_all)()


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secrets that Argon2 was asked about, in order; Argon2 itself runs as ever."""
    asked: list[str] = []

    def verify(key_hash: str, secret: str) -> bool:
        asked.append(secret)
        return verify_secret(key_hash, secret)

    monkeypatch.setattr(proofs_module, "verify_secret", verify)
    return asked


make_key = sync_to_async(factories.make_key)


async def test_many_calls_with_a_new_key_prove_it_once(ring: Keyring, proofs: list[str]) -> None:
    key, text = await make_key()
    grants = await asyncio.gather(*(ring.authenticate(text, HERE) for _ in range(50)))
    assert {grant.api_key_id for grant in grants} == {key.id}
    assert len(proofs) == 1
    grant = await ring.authenticate(text, HERE)
    assert key.service_id is not None
    assert grant.reaches(key.service_id)
    assert grant.tiers == {key.service_id: "enterprise"}
    assert len(proofs) == 1


async def test_no_key_and_bad_keys_are_refused(ring: Keyring, proofs: list[str]) -> None:
    with pytest.raises(CredentialsMissing):
        await ring.authenticate(None, HERE)
    with pytest.raises(InvalidKey):
        await ring.authenticate("mk_live_nonsense", HERE)
    assert proofs == []
    unknown = mint().text
    for _ in range(3):
        with pytest.raises(InvalidKey):
            await ring.authenticate(unknown, HERE)
    assert len(proofs) == 1, "an unknown id costs one Argon2, and is remembered"


async def test_a_forgotten_grant_is_read_again_and_the_proof_stays(ring: Keyring, proofs: list[str]) -> None:
    key, text = await make_key()
    await ring.authenticate(text, HERE)
    await ApiKey.objects.filter(id=key.id).aupdate(revoked_at=clock.now())
    await ring.authenticate(text, HERE)
    ring.forget(key.public_id)
    with pytest.raises(InvalidKey):
        await ring.authenticate(text, HERE)
    assert len(proofs) == 1


async def test_a_suspended_consumer_takes_all_its_keys_along(ring: Keyring) -> None:
    key, text = await make_key()
    _, second = await make_key(key.consumer, key.service)
    await ring.authenticate(text, HERE)
    await ring.authenticate(second, HERE)
    await Consumer.objects.filter(id=key.consumer_id).aupdate(status="suspended")
    ring.forget_consumer(key.consumer_id)
    for each in (text, second):
        with pytest.raises(InvalidKey):
            await ring.authenticate(each, HERE)
    await Consumer.objects.filter(id=key.consumer_id).aupdate(status="active")
    ring.doubt_all()
    assert (await ring.authenticate(second, HERE)).consumer_id == key.consumer_id


async def test_a_key_expires_without_anybody_saying_so(
    ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires_at = clock.now() + dt.timedelta(hours=1)
    _, text = await make_key(expires_at=expires_at)
    await ring.authenticate(text, HERE)
    monkeypatch.setattr(clock, "now_ms", lambda: int(expires_at.timestamp() * 1000))
    with pytest.raises(InvalidKey):
        await ring.authenticate(text, HERE)


async def test_ten_thousand_guesses_at_an_id_do_not_lock_its_key_out(
    ring: Keyring, proofs: list[str]
) -> None:
    key, text = await make_key()
    await ring.authenticate(text, HERE)
    codes: Counter[str] = Counter()
    for number in range(10_000):
        try:
            await ring.authenticate(
                text_of(key.public_id), f"198.{number // 65536}.{number // 256}.{number % 256}"
            )
        except Problem as error:
            codes[error.code] += 1
    assert codes.total() == 10_000
    assert codes["invalid_api_key"] + codes["too_many_failures"] == 10_000
    # What fits into the bucket while the guesses go on, and the good key's own proof: not ten thousand.
    assert len(proofs) == codes["invalid_api_key"] + 1 < 200
    assert (await ring.authenticate(text, HERE)).api_key_id == key.id


async def test_a_forged_key_dies_before_anything_is_asked(ring: Keyring, proofs: list[str]) -> None:
    text = mint().text
    forged = text[:-25] + "0" * 16 + text[-9:]
    for bad in (forged, text.replace("mk_live", "mk_test"), "x" * 10_000, "ü" * len(text)):
        with pytest.raises(InvalidKey):
            await ring.authenticate(bad, HERE)
    assert proofs == []
    assert not ring._proving


async def test_the_proof_that_was_used_longest_ago_is_forgotten_first(
    ring: Keyring, proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs_module, "MOST_PROOFS", 2)
    texts = [(await make_key())[1] for _ in range(3)]
    await ring.authenticate(texts[0], HERE)
    await ring.authenticate(texts[1], HERE)
    await ring.authenticate(texts[0], HERE)
    await ring.authenticate(texts[2], HERE)
    assert len(proofs) == 3
    await ring.authenticate(texts[0], HERE)
    assert len(proofs) == 3
    await ring.authenticate(texts[1], HERE)
    assert len(proofs) == 4


async def test_a_proof_is_of_one_hash_and_ends_with_it(ring: Keyring, proofs: list[str]) -> None:
    key, text = await make_key()
    await ring.authenticate(text, HERE)
    await ApiKey.objects.filter(id=key.id).aupdate(key_hash=hash_secret("another"))
    ring.forget(key.public_id)
    with pytest.raises(InvalidKey):
        await ring.authenticate(text, HERE)
    assert len(proofs) == 2


async def test_more_proofs_than_can_be_made_soon_are_put_off(
    ring: Keyring, proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs_module, "MOST_WAITING", 1)
    texts = [(await make_key())[1] for _ in range(10)]
    results = await asyncio.gather(*(ring.authenticate(text, HERE) for text in texts), return_exceptions=True)
    put_off = [result for result in results if isinstance(result, Unavailable)]
    assert put_off
    assert {error.retry_after for error in put_off} == {1}
    assert len(proofs) == 10 - len(put_off)
    monkeypatch.setattr(proofs_module, "WAITING_SECONDS", -1.0)
    with pytest.raises(Unavailable):
        await ring.authenticate((await make_key())[1], HERE)
    assert len(proofs) == 10 - len(put_off), "what waited too long is not begun"
    monkeypatch.setattr(proofs_module, "WAITING_SECONDS", 60.0)
    for text in texts:
        await ring.authenticate(text, HERE)
    assert len(proofs) == 10


async def test_outside_its_networks_a_proven_key_is_refused_at_once(ring: Keyring) -> None:
    key, text = await make_key()
    await ring.authenticate(text, HERE)
    await ApiKey.objects.filter(id=key.id).aupdate(allowed_networks=["192.0.2.0/24"])
    ring.forget(key.public_id)
    await ring.authenticate(text, HERE)
    for elsewhere in ("198.51.100.1", "", "no address"):
        with pytest.raises(InvalidKey):
            await ring.authenticate(text, elsewhere)


async def test_a_grant_carries_what_is_said_of_the_key(ring: Keyring) -> None:
    key, text = await make_key(
        scopes=["consume"],
        requests_per_second=0,
        tokens_per_month=5,
        budget_amount=Decimal("2.5"),
        budget_currency="EUR",
        budget_period="day",
    )
    grant = await ring.authenticate(text, HERE)
    assert grant.scopes == {"consume"}
    assert not grant.testing
    assert grant.limits == KeyLimits(key.lineage, 0, 5, budget=Budget(Decimal("2.5"), "EUR", "day"))
    with pytest.raises(ScopeMissing):
        grant.require("usage:read")


class Store:
    """A real Valkey, and what was asked of it."""

    def __init__(self) -> None:
        self.client: Any = redis.asyncio.Redis.from_url(settings.REDIS_URL)
        self.rings: list[Keyring] = []

    async def __call__(self, command: tuple[Any, ...]) -> Any:
        return await self.client.execute_command(*command)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store()
    await store.client.flushdb()
    yield store
    for ring in store.rings:
        closed(ring)
    await store.client.aclose()


async def restarted(store: Store) -> Keyring:
    """A gateway that knows nothing but what others told it through Valkey."""
    ring = Keyring(Proofs(), SharedProofs(store))
    store.rings.append(ring)
    ring.heard(time.monotonic() + 60)
    return ring


async def test_a_restarted_gateway_takes_over_what_another_proved(
    committed: None, store: Store, proofs: list[str]
) -> None:
    key, text = await make_key()
    await (await restarted(store)).authenticate(text, HERE)
    assert len(proofs) == 1
    ring = await restarted(store)
    assert (await ring.authenticate(text, HERE)).api_key_id == key.id
    assert len(proofs) == 1
    entry = await store.client.get(f"keyproof:{key.public_id}")
    assert len(entry) == 48
    assert 0 < await store.client.ttl(f"keyproof:{key.public_id}") <= 86_400

    # It proves a text against a hash, and nothing of the key's state.
    await ApiKey.objects.filter(id=key.id).aupdate(revoked_at=clock.now())
    with pytest.raises(InvalidKey):
        await (await restarted(store)).authenticate(text, HERE)


async def test_an_entry_dies_with_the_hash(committed: None, store: Store, proofs: list[str]) -> None:
    key, text = await make_key()
    await (await restarted(store)).authenticate(text, HERE)
    await ApiKey.objects.filter(id=key.id).aupdate(key_hash=hash_secret("another"))
    with pytest.raises(InvalidKey):
        await (await restarted(store)).authenticate(text, HERE)
    assert len(proofs) == 2


async def test_whoever_writes_to_valkey_gets_no_forged_key_accepted(
    committed: None, store: Store, proofs: list[str]
) -> None:
    key, text = await make_key()
    other, other_text = await make_key(key.consumer, key.service)
    ring = await restarted(store)
    await ring.authenticate(text, HERE)
    await ring.authenticate(other_text, HERE)
    mine = await store.client.get(f"keyproof:{key.public_id}")
    theirs = await store.client.get(f"keyproof:{other.public_id}")
    right_hash = mine[:16]
    forged = text_of(key.public_id)
    entries = [
        mine, theirs, b"", b"1", right_hash, right_hash + theirs[16:], mine[:-1] + bytes([mine[-1] ^ 1]), bytes(48),
        right_hash + hashlib.sha256(forged.encode()).digest(),
        right_hash + hmac.digest(right_hash, forged.encode(), "sha256"),
    ]  # fmt: skip
    for entry in entries:
        await store.client.set(f"keyproof:{key.public_id}", entry)
        with pytest.raises(InvalidKey):
            await (await restarted(store)).authenticate(forged, HERE)
    assert len(proofs) == 2 + len(entries)
    # An entry of another type, and a lost one, cost an Argon2 and refuse nobody.
    await store.client.delete(f"keyproof:{key.public_id}")
    assert (await (await restarted(store)).authenticate(text, HERE)).api_key_id == key.id


async def test_a_key_that_another_gateway_proved_is_not_locked_out_by_guesses_here(
    committed: None, store: Store, proofs: list[str]
) -> None:
    key, text = await make_key()
    await (await restarted(store)).authenticate(text, HERE)
    ring = await restarted(store)
    refused: Counter[str] = Counter()
    for _ in range(30):
        try:
            await ring.authenticate(text_of(key.public_id), HERE)
        except Problem as error:
            refused[error.code] += 1
    assert refused["too_many_failures"] > 0
    assert (await ring.authenticate(text, HERE)).api_key_id == key.id


async def test_nothing_in_valkey_gives_a_secret_back(committed: None, store: Store) -> None:
    _, text = await make_key()
    await (await restarted(store)).authenticate(text, HERE)
    parsed = parse(text)
    assert parsed is not None
    for name in await store.client.keys("*"):
        entry = await store.client.dump(name)
        for planted in (text, parsed.secret):
            assert planted.encode() not in name + entry
            assert hashlib.sha256(planted.encode()).digest() not in entry
