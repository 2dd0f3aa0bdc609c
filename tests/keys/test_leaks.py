"""Keys that were found in public and reported, signed, in the shape of GitHub's partner programme."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from audit.models import AuditEntry
from keys import leaks
from keys.format import mint
from keys.models import ApiKey, KeyNotice
from tests.api import anonymous, refusal, with_key
from tests.factories import make_key
from tests.key_texts import text_of

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

URL = "/api/v1/secret-scanning"
KEY = ec.generate_private_key(ec.SECP256R1())
FOUND = "https://example.org/public/blob/1"


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


@pytest.fixture(autouse=True)
def _known_key(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SECRET_SCANNING_KEYS = {"one": pem(KEY)}
    settings.SECRET_SCANNING_KEYS_URL = ""
    monkeypatch.setattr(leaks, "_public_keys", leaks.PublicKeys())


def signature(body: bytes, key: Any = KEY, digest: Any = hashes.SHA256) -> str:
    return base64.b64encode(key.sign(body, ec.ECDSA(digest()))).decode()


def report(body: bytes, *, identifier: str = "one", signed: str | None = None) -> Any:
    return anonymous().generic(
        "POST",
        URL,
        body,  # type: ignore[arg-type]
        content_type="application/json",
        HTTP_GITHUB_PUBLIC_KEY_IDENTIFIER=identifier,
        HTTP_GITHUB_PUBLIC_KEY_SIGNATURE=signature(body) if signed is None else signed,
    )


def told(*tokens: str, url: str = FOUND) -> bytes:
    findings = [
        {"token": token, "type": "marketplace_key", "url": url, "source": "content"} for token in tokens
    ]
    return json.dumps(findings).encode()


def test_a_reported_key_is_revoked_its_owners_told_and_nothing_repeats_it() -> None:
    key, text = make_key()
    others = [mint().text, text_of(key.public_id), "ghp_something", text[:-1] + "x"]
    assert with_key(text).get("/api/v1/services").status_code == 200
    answer = report(told(text, *others))
    assert answer.status_code == 200
    labels = ["true_positive"] + ["false_positive"] * 4
    assert answer.json() == [
        {
            "token_hash": base64.b64encode(hashlib.sha256(token.encode()).digest()).decode(),
            "token_type": "marketplace_key",
            "label": label,
        }
        for token, label in zip([text, *others], labels, strict=True)
    ]
    assert refusal(with_key(text).get("/api/v1/services")) == (403, "invalid_api_key")
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target_id) == ("secret scanning", "api_key_revoked", str(key.id))
    assert (entry.after["reason"], entry.after["found_at"]) == ("found in public", FOUND)
    notice = KeyNotice.objects.get()
    assert (notice.api_key_id, notice.kind, notice.found_at) == (key.id, "leaked", FOUND)

    again = report(told(text, url=f"https://example.org/?q={text}"))
    assert again.json()[0]["label"] == "true_positive"
    assert AuditEntry.objects.count() == KeyNotice.objects.count() == 1


def test_a_place_that_repeats_the_key_is_kept_nowhere() -> None:
    _, text = make_key()
    report(told(text, url=f"https://example.org/?q={text}"))
    assert KeyNotice.objects.get().found_at == ""
    assert text not in str(list(AuditEntry.objects.values()))


def test_what_is_not_signed_by_a_known_key_revokes_nothing() -> None:
    _, text = make_key()
    body = told(text)
    stranger = ec.generate_private_key(ec.SECP256R1())
    wrong = [
        report(body, signed=""),
        report(body, signed="not base64"),
        report(body, signed=base64.b64encode(b"x" * 70).decode()),
        report(body, signed=signature(body, stranger)),
        report(body, signed=signature(body + b" ")),
        report(body, signed=signature(body, digest=hashes.SHA512)),
        report(body + b" ", signed=signature(body)),
        report(body, identifier="two"),
        report(body, identifier=""),
        anonymous().post(URL, [], format="json"),
    ]
    assert {refusal(answer) for answer in wrong} == {(403, "report_not_signed")}
    assert ApiKey.objects.get().revoked_at is None
    assert not KeyNotice.objects.exists()


@pytest.mark.parametrize("kept", ["no pem", pem(ec.generate_private_key(ec.SECP384R1()))])
def test_a_public_key_of_another_kind_verifies_nothing(settings: Any, kept: str) -> None:
    settings.SECRET_SCANNING_KEYS = {"one": kept}
    assert refusal(report(told("x"))) == (403, "report_not_signed")


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b"{", (400, "malformed_request")),
        (b"{}", (422, "invalid_field")),
        (b'["x"]', (422, "invalid_field")),
        (b'[{"token": 1}]', (422, "invalid_field")),
        (b'[{"type": "x"}]', (422, "invalid_field")),
        (told(*["x"] * 101), (422, "invalid_field")),
        (told("x" * 1001), (422, "invalid_field")),
        (b" " * (256 * 1024 + 1), (413, "body_too_large")),
    ],
)
def test_a_signed_report_is_read_as_strictly_as_any_body(body: bytes, refused: tuple[int, str]) -> None:
    assert refusal(report(body)) == refused


class Listed(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        body = self.server.body  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def listing(settings: Any) -> Iterator[Any]:
    """The reporter's list of public keys, over a real socket."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listed)
    server.asked, server.body = 0, b""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.SECRET_SCANNING_KEYS_URL = f"http://127.0.0.1:{server.server_port}/keys"
    yield server
    server.shutdown()
    server.server_close()


def test_keys_of_the_reporters_list_are_fetched_and_kept(
    listing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = ec.generate_private_key(ec.SECP256R1())
    listing.body = json.dumps(
        {"public_keys": [{"key_identifier": "two", "key": pem(second), "is_current": True}]}
    ).encode()
    body = told("x")
    for _ in range(2):
        assert report(body, identifier="two", signed=signature(body, second)).status_code == 200
    assert listing.asked == 1
    for number in range(3):
        assert refusal(report(body, identifier=f"made up {number}")) == (403, "report_not_signed")
    assert listing.asked == 1, "a key that is not there does not make us ask again and again"
    monkeypatch.setattr(leaks, "PAUSE_SECONDS", -1.0)
    assert refusal(report(body, identifier="made up")) == (403, "report_not_signed")
    assert listing.asked == 2


@pytest.mark.parametrize("listed", [b"", b"[]", b"{}", b'{"public_keys": [1]}', b"x" * 70_000])
def test_a_list_that_is_none_lets_nobody_in(listing: Any, listed: bytes) -> None:
    listing.body = listed
    assert refusal(report(told("x"), identifier="two")) == (403, "report_not_signed")
    assert listing.asked == 1
    assert report(told("x")).status_code == 200
