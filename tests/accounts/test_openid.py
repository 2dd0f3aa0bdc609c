"""Tokens of an OpenID provider: real signatures, keys fetched over a real socket, and everything that may be wrong."""

import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from accounts import openid, openid_keys
from accounts.errors import ProviderUnavailable
from accounts.models import ExternalIdentity, Membership
from common import clock
from tests.api import anonymous
from tests.factories import make_member

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

ISSUER, AUDIENCE = "https://sign-in.example.com", "marketplace"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


class Provider:
    """Publishes public keys on loopback, and counts how often it is asked."""

    def __init__(self) -> None:
        self.keys = [
            self.published(RSAAlgorithm, RSA, "rsa"),
            self.published(ECAlgorithm, P256, "ec"),
            self.published(OKPAlgorithm, ED, "ed"),
        ]
        self.asked = 0
        self.status = 200
        self.body: bytes | None = None
        self.pause = 0.0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                time.sleep(provider.pause)
                body = (
                    json.dumps({"keys": provider.keys}).encode() if provider.body is None else provider.body
                )
                self.send_response(provider.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def published(algorithm: Any, key: Any, kid: str) -> dict[str, Any]:
        return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


@pytest.fixture
def provider(settings: Any) -> Iterator[Provider]:
    provider = Provider()
    settings.OPENID_PROVIDERS = {ISSUER: {"audience": AUDIENCE, "jwks_url": provider.url}}
    yield provider
    openid._keys.cache_clear()
    provider.server.shutdown()
    provider.server.server_close()


@pytest.fixture
def member(provider: Provider) -> Membership:
    member = make_member()
    ExternalIdentity.objects.create(user=member.user, issuer=ISSUER, subject="ada")
    return member


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **changes: Any) -> str:
    now = clock.now()
    claims = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + dt.timedelta(minutes=5),
        "email": "ada@example.com", "groups": ["super_admin"], "is_staff": True,
    }  # fmt: skip
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={} if kid is None else {"kid": kid})


def asked_with(text: str) -> int:
    client = anonymous()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return int(client.get("/api/v1/keys").status_code)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (P256, "ES256", "ec"), (ED, "EdDSA", "ed")]
)
def test_a_linked_person_acts_as_what_their_membership_says(
    key: Any, algorithm: str, kid: str, member: Membership, provider: Provider
) -> None:
    text = token(key, algorithm, kid)
    assert [asked_with(text) for _ in range(3)] == [200] * 3
    assert provider.asked == 1, "the keys are kept"
    member.user.refresh_from_db()
    assert not member.user.is_staff
    assert not member.user.groups.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"}, {"aud": None}, {"sub": "bob"}, {"sub": None}, {"iat": None}, {"exp": None},
        {"exp": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, {"nbf": dt.datetime(2999, 1, 1, tzinfo=dt.UTC)},
        {"key": OTHER_RSA}, {"kid": "ec"}, {"kid": None}, {"iss": "https://nobody.example.com"},
    ],
    ids=lambda changes: "-".join(changes) + f"-{str(next(iter(changes.values())))[:12]}",
)  # fmt: skip
def test_what_is_wrong_with_a_token_opens_nothing(changes: dict[str, Any], member: Membership) -> None:
    assert asked_with(token(**changes)) == 401


def test_a_public_key_is_no_shared_secret_and_no_signature_is_none(member: Membership) -> None:
    pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _, body, _ = token().split(".")
    for algorithm, signature in (("none", ""), ("HS256", _hmac(pem, algorithm="HS256", body=body))):
        forged = jwt.utils.base64url_encode(json.dumps({"alg": algorithm, "kid": "rsa"}).encode()).decode()
        assert asked_with(f"{forged}.{body}.{signature}") == 401


def _hmac(secret: bytes, *, algorithm: str, body: str) -> str:
    head = jwt.utils.base64url_encode(json.dumps({"alg": algorithm, "kid": "rsa"}).encode())
    signed = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        head + b"." + body.encode(), secret
    )
    return jwt.utils.base64url_encode(signed).decode()


def test_invented_key_ids_do_not_have_the_provider_asked_each_time(
    member: Membership, provider: Provider
) -> None:
    assert asked_with(token()) == 200
    assert [asked_with(token(kid=f"invented-{number}")) for number in range(5)] == [401] * 5
    assert provider.asked == 1


def test_a_new_key_is_asked_for_a_minute_after_the_last_time(
    member: Membership, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked_with(token()) == 200
    provider.keys = [provider.published(RSAAlgorithm, OTHER_RSA, "new")]
    new = token(OTHER_RSA, kid="new")
    assert asked_with(new) == 401
    keys = openid._keys(provider.url)
    keys._asked_at -= openid_keys.UNKNOWN_SECONDS
    assert asked_with(new) == 200
    assert provider.asked == 2
    assert asked_with(token()) == 401, "a key that is no longer published signs nothing"


@pytest.mark.parametrize("algorithm", ["HS256", "RS384", "RS512", "PS256", "none", "", None, 7])
def test_of_other_algorithms_the_provider_is_not_even_asked(
    algorithm: Any, member: Membership, provider: Provider
) -> None:
    _, body, signature = token().split(".")
    head = jwt.utils.base64url_encode(json.dumps({"alg": algorithm, "kid": "rsa"}).encode()).decode()
    assert asked_with(f"{head}.{body}.{signature}") == 401
    assert provider.asked == 0


def test_a_shared_secret_that_a_provider_publishes_signs_nothing(
    member: Membership, provider: Provider
) -> None:
    secret = {"kty": "oct", "k": jwt.utils.base64url_encode(b"s" * 32).decode(), "kid": "oct"}
    for alg in ({}, {"alg": "HS256"}):
        openid._keys.cache_clear()
        provider.keys = [{**secret, **alg}, provider.published(RSAAlgorithm, RSA, "rsa")]
        assert asked_with(token()) == 200
        assert asked_with(token(b"s" * 32, "HS256", "oct")) == 401


def spoilt_by(provider: Provider, how: str) -> None:
    spoil: dict[str, dict[str, Any]] = {
        "redirect": {"status": 302}, "error": {"status": 500}, "slow": {"pause": 2.0},
        "large": {"body": b" " * 262_145},
        "no JSON": {"body": b"<html>"}, "no set": {"body": b"[]"}, "no list": {"body": b'{"keys": {}}'},
        "no keys": {"body": b'{"keys": [1, null, {"kid": []}, {"kid": "rsa", "kty": 7}]}'},
        "deep": {"body": b"[" * 100_000},
    }  # fmt: skip
    for name, value in spoil[how].items():
        setattr(provider, name, value)


@pytest.mark.parametrize(
    "how", ["redirect", "error", "slow", "large", "no JSON", "no set", "no list", "no keys", "deep"]
)
def test_a_provider_that_does_not_answer_well_is_told_of_and_left_alone_for_a_while(
    how: str, member: Membership, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openid_keys, "FETCH_SECONDS", 1.0)
    spoilt_by(provider, how)
    assert [asked_with(token()) for _ in range(3)] == [503] * 3
    assert provider.asked == 1
    provider.status, provider.body, provider.pause = 200, None, 0.0
    openid._keys(provider.url)._asked_at -= openid_keys.PAUSE_SECONDS
    assert asked_with(token()) == 200


def test_without_tls_keys_come_from_listed_networks_alone(
    member: Membership, provider: Provider, settings: Any
) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    assert asked_with(token()) == 503
    assert provider.asked == 0


def test_while_one_asks_the_others_do_not_wait_long(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openid_keys, "QUEUE_SECONDS", 0.05)
    keys = openid_keys.ProviderKeys(provider.url)
    assert keys.find("rsa") is not None
    keys._asked_at -= openid_keys.UNKNOWN_SECONDS
    with keys._asking:
        assert keys.find("rsa") is not None, "who needs nothing new waits for nobody"
        with pytest.raises(ProviderUnavailable) as refused:
            keys.find("new")
    assert refused.value.retry_after == 1


def test_who_is_no_longer_active_or_linked_is_refused(member: Membership) -> None:
    text = token()
    member.user.is_active = False
    member.user.save()
    assert asked_with(text) == 401
    member.user.is_active = True
    member.user.save()
    assert asked_with(text) == 200
    ExternalIdentity.objects.all().delete()
    assert asked_with(text) == 401


def test_it_opens_no_console(member: Membership, client: Any) -> None:
    member.user.is_staff = member.user.is_superuser = True
    member.user.save()
    answer = client.get("/admin/", headers={"authorization": f"Bearer {token()}"}, follow=False)
    assert answer.status_code in {302, 404}
