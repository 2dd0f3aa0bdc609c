"""What is kept encrypted: it opens under every key of the ring, is sealed under the first, and is bound to it."""

from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from common.sealing import Unsealable, require_keys, reseal, seal, unseal

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))


@pytest.fixture(autouse=True)
def ring(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = [OLD]


@pytest.mark.parametrize("plain", [b"", b"sk-1", bytes(range(256)) * 100])
def test_what_was_sealed_opens_again_and_shows_nothing(plain: bytes) -> None:
    sealed = seal(plain)
    assert unseal(sealed) == plain
    assert not plain or plain not in sealed
    assert seal(plain) != sealed


def test_an_older_key_opens_and_the_first_one_seals(settings: Any) -> None:
    before = seal(b"secret")
    settings.CREDENTIAL_KEYS = [NEW, OLD]
    assert unseal(before) == b"secret"
    after = seal(b"secret")
    settings.CREDENTIAL_KEYS = [NEW]
    assert unseal(after) == b"secret"
    with pytest.raises(Unsealable):
        unseal(before)


def test_sealing_again_outlives_the_old_key_and_changes_nothing_twice(settings: Any) -> None:
    before = seal(b"secret")
    settings.CREDENTIAL_KEYS = [NEW, OLD]
    moved = reseal(before)
    assert reseal(moved) == moved
    settings.CREDENTIAL_KEYS = [NEW]
    assert unseal(moved) == b"secret"


@pytest.mark.parametrize(
    "spoil", [lambda s: s[:-2] + b"xx", lambda s: s[:20], lambda s: b"", lambda s: b"\xff\x00"]
)
def test_what_was_altered_does_not_open(spoil: Any) -> None:
    spoilt = spoil(seal(b"a secret that is long enough"))
    for attempt in (unseal, reseal):
        with pytest.raises(Unsealable):
            attempt(spoilt)


def test_a_strangers_seal_does_not_open(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = [OTHER]
    sealed = seal(b"secret")
    settings.CREDENTIAL_KEYS = [NEW, OLD]
    with pytest.raises(Unsealable):
        unseal(sealed)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([], "CREDENTIAL_KEYS is not set"),
        (["A" * 43 + "="], "CREDENTIAL_KEYS is not set"),
        ([OLD, "A" * 43 + "="], "CREDENTIAL_KEYS is not set"),
        (["c2hvcnQ="], "CREDENTIAL_KEYS are 32 bytes each in URL-safe Base64"),
        ([OLD, "nonsense"], "CREDENTIAL_KEYS are 32 bytes each in URL-safe Base64"),
    ],
)
def test_nothing_is_sealed_under_a_key_that_is_none_or_known(
    settings: Any, keys: list[str], said: str
) -> None:
    settings.CREDENTIAL_KEYS = keys
    for attempt in (require_keys, lambda: seal(b"secret")):
        with pytest.raises(ImproperlyConfigured) as refused:
            attempt()
        assert str(refused.value) == said
        assert refused.value.__suppress_context__ or refused.value.__context__ is None
