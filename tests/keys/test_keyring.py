"""Keys as text, and what a gateway remembers of them."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from accounts.models import Consumer
from common import clock
from common.errors import CredentialsMissing
from keys import keyring as keyring_module
from keys.format import mint, parse
from keys.hashing import verify_secret
from keys.keyring import InvalidKey, Keyring
from keys.models import ApiKey
from tests import factories
from tests.committed import audit_trail_may_be_emptied, committed

__all__ = ["audit_trail_may_be_emptied", "committed"]


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


@pytest.fixture
async def ring(committed: None) -> AsyncIterator[Keyring]:
    ring = Keyring()
    yield ring
    ring.close()
    await sync_to_async(connections.close_all)()


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secrets that Argon2 was asked about, in order; Argon2 itself runs as ever."""
    asked: list[str] = []

    def verify(key_hash: str, secret: str) -> bool:
        asked.append(secret)
        return verify_secret(key_hash, secret)

    monkeypatch.setattr(keyring_module, "verify_secret", verify)
    return asked


make_key = sync_to_async(factories.make_key)


async def test_many_calls_with_a_new_key_prove_it_once(ring: Keyring, proofs: list[str]) -> None:
    key, text = await make_key()
    grants = await asyncio.gather(*(ring.authenticate(text) for _ in range(50)))
    assert {grant.api_key_id for grant in grants} == {key.id}
    assert len(proofs) == 1
    grant = await ring.authenticate(text)
    assert key.service_id is not None
    assert grant.reaches(key.service_id)
    assert grant.tiers == {key.service_id: "enterprise"}
    assert len(proofs) == 1


async def test_no_key_and_bad_keys_are_refused(ring: Keyring, proofs: list[str]) -> None:
    with pytest.raises(CredentialsMissing):
        await ring.authenticate(None)
    with pytest.raises(InvalidKey):
        await ring.authenticate("mk_live_nonsense")
    assert proofs == []
    unknown = mint().text
    for _ in range(3):
        with pytest.raises(InvalidKey):
            await ring.authenticate(unknown)
    assert len(proofs) == 1, "an unknown id costs one Argon2, and is remembered"


async def test_a_forgotten_grant_is_read_again_and_the_proof_stays(ring: Keyring, proofs: list[str]) -> None:
    key, text = await make_key()
    await ring.authenticate(text)
    await ApiKey.objects.filter(id=key.id).aupdate(revoked_at=clock.now())
    await ring.authenticate(text)
    ring.forget(key.public_id)
    with pytest.raises(InvalidKey):
        await ring.authenticate(text)
    assert len(proofs) == 1


async def test_a_suspended_consumer_takes_all_its_keys_along(ring: Keyring) -> None:
    key, text = await make_key()
    _, second = await make_key(key.consumer, key.service)
    await ring.authenticate(text)
    await ring.authenticate(second)
    await Consumer.objects.filter(id=key.consumer_id).aupdate(status="suspended")
    ring.forget_consumer(key.consumer_id)
    for each in (text, second):
        with pytest.raises(InvalidKey):
            await ring.authenticate(each)
    await Consumer.objects.filter(id=key.consumer_id).aupdate(status="active")
    ring.forget_all()
    assert (await ring.authenticate(second)).consumer_id == key.consumer_id


async def test_a_key_expires_without_anybody_saying_so(ring: Keyring) -> None:
    _, text = await make_key(expires_at=clock.now() + dt.timedelta(milliseconds=400))
    await ring.authenticate(text)
    await asyncio.sleep(0.45)
    with pytest.raises(InvalidKey):
        await ring.authenticate(text)
