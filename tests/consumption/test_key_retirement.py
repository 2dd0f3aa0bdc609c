"""An older key may go when nothing is sealed under it any more: no credential, no authenticator, no kept answer."""

import json
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.core.management.base import CommandError

from accounts import second_factor
from accounts.authenticators import Authenticator
from catalog.models import Endpoint
from common import sealing
from devstack.valkey import Valkey
from tests.factories import make_endpoint, make_user

pytestmark = pytest.mark.django_db

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


@pytest.fixture(autouse=True)
def sealed_under_the_old_key(settings: Any, own_valkey: Valkey) -> None:
    settings.REDIS_URL = own_valkey.url
    settings.CREDENTIAL_KEYS = [OLD]
    make_endpoint(credential="planted-credential")
    second_factor.begin(make_user())
    settings.CREDENTIAL_KEYS = [NEW, OLD]


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    call_command("rotate_credentials")
    return json.loads(capsys.readouterr().out)


def test_credentials_and_authenticators_outlive_the_older_key(
    settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = Authenticator.objects.get().secret
    clean = {"rotated": 0, "unreadable": 0, "kept_answers": 0}
    assert printed(capsys) == {**clean, "rotated": 2, "older_keys_may_go": False}
    assert printed(capsys) == {**clean, "older_keys_may_go": True}
    settings.CREDENTIAL_KEYS = [NEW]
    assert Authenticator.objects.get().secret == secret
    assert Endpoint.objects.get().open_credential() == "planted-credential"


def test_none_may_go_while_an_answer_is_kept_under_it(
    settings: Any, capsys: pytest.CaptureFixture[str], own_valkey: Valkey
) -> None:
    printed(capsys)
    with redis.Redis.from_url(own_valkey.url) as client:
        client.set("{s00}:idem:new", sealing.seal(b"answer"))
        assert printed(capsys)["older_keys_may_go"]
        settings.CREDENTIAL_KEYS = [OLD]
        client.set("{s01}:idem:old", sealing.seal(b"answer"))
        settings.CREDENTIAL_KEYS = [NEW, OLD]
        told = printed(capsys)
    assert (told["kept_answers"], told["older_keys_may_go"]) == (1, False)


def test_none_may_go_while_a_row_cannot_be_opened(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.CREDENTIAL_KEYS = [NEW]
    told = printed(capsys)
    assert (told["unreadable"], told["older_keys_may_go"]) == (2, False)


def test_none_may_go_while_valkey_does_not_say(
    own_valkey: Valkey, capsys: pytest.CaptureFixture[str]
) -> None:
    own_valkey.stop()
    for _ in range(2):
        with pytest.raises(CommandError, match="Valkey does not say"):
            call_command("rotate_credentials")
    assert capsys.readouterr().out == ""
