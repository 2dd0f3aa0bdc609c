"""What people and clients do with secrets, each of them planted: against real processes, as they would do it."""

import html
import json
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import requests
from django_otp.oath import totp

from accounts.models import ExternalIdentity, Membership, User
from catalog.models import Service
from common import clock
from devstack.valkey import Valkey
from finance.models import ExportJob
from tests import factories
from tests.accounts.test_openid import AUDIENCE, ED, ISSUER
from tests.catalog.test_endpoints_in_the_admin import rows
from tests.harness.echoing import LATE, EchoingUpstream
from tests.harness.planted import Planted, files_in
from tests.key_texts import text_of
from tests.keys.test_leaks import signature
from tests.live.stack import GatewayProcess
from tests.superuser import superuser_cursor

ADMIN = "/admin"


def unguessable(what: str) -> str:
    """Says what it is, and is a good password."""
    return f"Planted-{what}-{secrets.token_hex(12)}"


class Browser:
    """A person's, at the console."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()

    def get(self, path: str) -> str:
        answer = self.session.get(self.url + path, timeout=20)
        assert answer.status_code == 200, (path, answer.status_code)
        return html.unescape(answer.text)

    def post(self, path: str, fields: dict[str, Any], expected: int = 302) -> requests.Response:
        token = {"csrfmiddlewaretoken": self.session.cookies.get("console_csrf", "")}
        answer = self.session.post(self.url + path, fields | token, timeout=20, allow_redirects=False)
        assert answer.status_code == expected, (path, answer.status_code, re.findall("error.*", answer.text))
        return answer

    def sign_in(self, username: str, password: str, expected: int = 302) -> None:
        self.get(f"{ADMIN}/login/")
        self.post(f"{ADMIN}/login/", {"username": username, "password": password}, expected)


class Planting:
    """The acts, on one market: an owner who is an operator too, and services whose upstream tells what it is told."""

    def __init__(self, planted: Planted, console: str, gateways: list[GatewayProcess]) -> None:
        self.planted = planted
        self.gateways = gateways
        self.browser = Browser(console)
        self.password = planted.plant("password", unguessable("password"))
        self.boss = User.objects.create_superuser("boss-of-secrets", "boss@example.org", self.password)
        self.consumer = factories.make_consumer()
        Membership.objects.create(user=self.boss, consumer=self.consumer, role=Membership.Role.OWNER)
        factories.make_tier()
        self.services: dict[str, Service] = {}
        self.first_day = f"{clock.now():%Y-%m-%d}"

    def plant(self, what: str) -> str:
        return self.planted.plant(what, unguessable(what.replace(" ", "-")))

    # -- people

    def people_sign_in_to_the_console(self) -> None:
        self.browser.sign_in(self.boss.username, self.plant("wrong password at the console"), 200)
        typed = self.plant("password in the field of the name at the console")
        self.browser.sign_in(typed, self.plant("whatever came after it"), 200)
        self.browser.sign_in(self.boss.username, self.password)
        new, path = self.plant("password of a new person"), f"{ADMIN}/accounts/user/"
        forms = {
            f"{name}-{n}_FORMS": 0 for name in ("memberships", "identities") for n in ("TOTAL", "INITIAL")
        }
        person = {"username": "new-person", "usable_password": "true"}
        self.browser.post(f"{path}add/", {**person, **forms, "password1": new, "password2": new})
        made, changed = User.objects.get(username="new-person"), self.plant("changed password")
        self.browser.post(
            f"{path}{made.pk}/password/", {**person, "password1": changed, "password2": changed}
        )
        assert User.objects.get(pk=made.pk).check_password(changed)

    def people_sign_in_to_the_api(self) -> None:
        """And renew, and use a token again, and bring one of a provider."""
        first = self.token(self.boss.username, self.password, 200)
        self.token(self.boss.username, self.plant("wrong password at the token endpoint"), 401)
        typed = self.plant("password in the field of the name at the token endpoint")
        self.token(typed, self.plant("whatever came after that"), 401)
        access, refresh = (
            self.planted.jwt(f"first {kind} token", first[kind]) for kind in ("access", "refresh")
        )
        assert self.keys(access, 200) is not None
        self.keys(access[:-4] + "AAAA", 401)
        second = self.refreshed(refresh, 200)
        for kind in ("access", "refresh"):
            self.planted.jwt(f"second {kind} token", second[kind])
        self.refreshed(refresh, 401)
        self.keys(second["access"], 401)
        for gateway in self.gateways:
            assert gateway.get(f"/api/v1/keys?access_token={access}").status_code == 400
            assert gateway.consume(self.services["answers"].id, access, {"prompt": "x"}).status_code == 403
        ExternalIdentity.objects.create(user=self.boss, issuer=ISSUER, subject="boss")
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "boss", "iat": now, "exp": now + 600}
        brought = jwt.encode(claims, ED, algorithm="EdDSA", headers={"kid": "ed"})
        self.keys(self.planted.jwt("token of a provider", brought), 200)
        unknown = jwt.encode(claims | {"sub": "nobody"}, ED, algorithm="EdDSA", headers={"kid": "ed"})
        self.keys(self.planted.jwt("token of a provider for nobody", unknown), 401)

    def a_second_factor_is_set_up(self) -> None:
        page = "/second-factor/"
        found = re.search(r'id="secret"[^>]*>([A-Z2-7]+)<', self.browser.get(page))
        assert found is not None
        device = self.boss.authenticator
        self.planted.plant("secret of the second factor", found.group(1), device.secret.decode("latin-1"))
        code = f"{totp(device.secret):06d}"
        backup = re.findall(
            r"(?:[0-9a-f]{4}-){3}[0-9a-f]{4}", self.browser.post(page, {"code": code}, 200).text
        )
        for number, text in enumerate(backup):
            self.planted.plant(f"code {number} on paper", text, text.replace("-", ""))
        other = Browser(self.browser.url)
        other.sign_in(self.boss.username, self.password)
        other.post(page, {"code": self.plant("wrong code")}, 400)
        time.sleep(1.01)  # after a failure the next try has to wait
        other.post(page, {"code": backup[0]})
        self.token(self.boss.username, self.password, 200, otp=backup[1])

    def token(self, username: str, password: str, expected: int, **more: str) -> Any:
        body = {"username": username, "password": password, **more}
        return self.api("POST", "token", expected, json=body)

    def refreshed(self, refresh: str, expected: int) -> Any:
        return self.api("POST", "token/refresh", expected, json={"refresh": refresh})

    def keys(self, token: str, expected: int) -> Any:
        return self.api("GET", "keys", expected, token=token)

    def api(self, method: str, path: str, expected: int, *, token: str = "", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self.gateways[0].url}/api/v1/{path}"
        answer = requests.request(method, url, headers=headers, timeout=20, **more)
        assert answer.status_code == expected, (path, answer.status_code, answer.text)
        return answer.json()

    # -- keys

    def keys_are_issued_rotated_misused_and_reported(self) -> None:
        token = self.token(self.boss.username, self.password, 200)["access"]
        service = self.services["answers"]
        made = self.api(
            "POST", "keys", 201, token=token, json={"service_id": str(service.id), "tier": "enterprise"}
        )
        old = self.planted.key("key", made["key"])
        rotated = self.api(
            "POST", f"keys/{made['id']}/rotate", 201, token=token, json={"overlap_seconds": 600}
        )
        new = self.planted.key("rotated key", rotated["key"])
        wrong = self.planted.key("key of a wrong secret", text_of(old[8:24]))
        for gateway in self.gateways:
            assert gateway.consume(service.id, old, {"prompt": "x"}).status_code == 200
            assert gateway.consume(service.id, new, {"prompt": "x"}).status_code == 200
            assert gateway.consume(service.id, wrong, {"prompt": "x"}).status_code == 403
            assert gateway.get(f"/api/v1/keys?key={new}").status_code == 400
            assert gateway.get(f"/api/v1/consume/{new}").status_code == 400
            assert gateway.get(f"/{new}", new).status_code == 400
        assert self.browser.session.get(f"{self.browser.url}/?q={new}", timeout=10).status_code == 400
        self._shown_once("issued key", f"{ADMIN}/keys/apikey/add/", service)
        self._shown_once("key rotated at the console", f"{ADMIN}/keys/apikey/{rotated['id']}/rotate/", None)
        stray = self.planted.key("reported key of nobody", text_of("0" * 16))
        found = [{"token": text, "type": "key", "url": f"https://x.example/{text}"} for text in (old, stray)]
        report = json.dumps(found).encode()
        headers = {"Github-Public-Key-Identifier": "one", "Github-Public-Key-Signature": signature(report)}
        url = f"{self.gateways[0].url}/api/v1/secret-scanning"
        headers["Content-Type"] = "application/json"
        answer = requests.post(url, data=report, headers=headers, timeout=20)
        assert [each["label"] for each in answer.json()] == ["true_positive", "false_positive"]
        self.public_id = old[8:24]

    def _shown_once(self, name: str, path: str, service: Service | None) -> None:
        fields: dict[str, Any] = {"overlap": "3600"}
        if service is not None:
            fields = {"consumer": self.consumer.id, "service": service.id, "tier": "enterprise"}
            fields |= {"name": "ops", "environment": "live", "scopes": ["consume"]}
        shown = re.search(r"mk_live_\w+", self.browser.post(path, fields, 200).text)
        assert shown is not None
        self.planted.key(name, shown.group())

    # -- calls

    def services_are_made(self, upstream: EchoingUpstream, behaviours: list[str]) -> None:
        """Each with an endpoint of its own, whose credential the console was told."""
        for behaviour in behaviours:
            service = factories.make_service(endpoint=f"{upstream.url}/{behaviour}")
            factories.make_entitlement(self.consumer, service)
            self.services[behaviour] = service
            factories.make_endpoint(
                service, base_url=service.endpoint, credential=self.plant(f"credential of {behaviour}")
            )

    def credentials_are_changed(self) -> None:
        """At the console, and again, and once where the form is refused."""
        service = self.services["answers"]
        endpoint = service.endpoints.get()
        path = f"{ADMIN}/catalog/service/{service.id}/change/"
        for number, (expected, weight) in enumerate([(302, 2), (302, 3), (200, 0)]):
            stored = {"id": endpoint.id, "base_url": endpoint.base_url, "weight": weight}
            fields = rows(service, stored | {"new_credential": self.plant(f"changed credential {number}")})
            self.browser.post(path, fields, expected)

    def calls_are_made(self, upstream: EchoingUpstream) -> None:
        self.key, self.text = factories.make_key(self.consumer, every_service=True)
        self.planted.key("key of the calls", self.text)
        for number, gateway in enumerate(self.gateways):
            for behaviour, service in self.services.items():
                if behaviour != "waits":
                    self._call(gateway, service, f"{behaviour} {number}", stream=behaviour in LATE)
            self._paid_once(gateway, number)
        told = " ".join(each.credential + each.body for each in upstream.told)
        assert "Planted-prompt-of-answers-0" in told
        assert "Planted-changed-credential-1" in told

    def _call(self, gateway: GatewayProcess, service: Service, name: str, *, stream: bool) -> None:
        prompt = self.plant(f"prompt of {name}")
        body = {"prompt": prompt, "stream": stream, "metadata": {"canary": f"canary-{self.consumer.id}"}}
        answer = gateway.consume(service.id, self.text, body)
        told = f"{answer.headers} {answer.text}"
        assert "Planted-credential" not in told, name

    def _paid_once(self, gateway: GatewayProcess, number: int) -> None:
        """Under an Idempotency-Key, whose answers are kept, in each dialect."""
        service = self.services["answers"]
        for dialect, path in enumerate(
            ("/v1/chat/completions", "/v1/messages", f"/api/v1/consume/{service.id}")
        ):
            for stream in (False, True):
                name = f"{number} {dialect} {stream}"
                text = self.plant(f"prompt under an idempotency key {name}")
                said = {"messages": [{"role": "user", "content": text}]}
                body: dict[str, Any] = {"stream": stream, "max_tokens": 20, **said}
                if dialect < 2:
                    body["model"] = service.name
                headers = {
                    "Authorization": f"Bearer {self.text}",
                    "Idempotency-Key": self.plant(f"idempotency key {name}"),
                }
                for _ in range(2):
                    answer = requests.post(gateway.url + path, json=body, headers=headers, timeout=20)
                    assert answer.status_code == 200, answer.text
                assert answer.headers["Idempotent-Replayed"] == "true"

    def a_call_is_settled_on_disk(
        self, upstream: EchoingUpstream, gateway: GatewayProcess, valkey: Valkey
    ) -> bytes:
        """Valkey stalls before the upstream has answered; returns what is on the gateway's disk then."""
        service, spool = self.services["waits"], Path(gateway.child.env["SPOOL_DIR"])
        with ThreadPoolExecutor(1) as pool:
            called = pool.submit(self._call, gateway, service, "the spool", stream=False)
            assert upstream.reached.wait(10)
            valkey.pause()
            upstream.may_answer.set()
            try:
                called.result()
                return b"".join(files_in(each for each in spool.rglob("*") if each.is_file()).values())
            finally:
                valkey.resume()

    # -- finance

    def an_export_is_ordered(self) -> ExportJob:
        path, last = f"{ADMIN}/finance/exportjob/", f"{clock.now():%Y-%m-%d}"
        self.browser.post(
            f"{path}add/",
            {"format": "csv", "first": self.first_day, "last": last, "consumer": self.consumer.id},
        )
        return ExportJob.objects.get(consumer=self.consumer)

    def it_is_downloaded(self, job: ExportJob) -> bytes:
        page = self.browser.get(f"{ADMIN}/finance/exportjob/{job.id}/change/")
        links = re.findall(r'href="([^"]+/download/[^"]+)"', page)
        for number, link in enumerate(links):
            token = parse_qs(urlsplit(link).query)["token"][0]
            if number == 0:
                self.planted.plant("token of a download", token, token.rpartition(":")[2])
        files = [self.browser.session.get(self.browser.url + link, timeout=20).content for link in links]
        assert len(files) == 2
        return b"".join(files)

    # -- defects

    def forms_meet_defects(self) -> None:
        """The operators are mailed of each."""
        other = Browser(self.browser.url)
        typed = self.plant("password in the field of the name at a defect")
        with renamed("axes_accessattempt"):
            other.sign_in(self.boss.username, self.plant("password at a defect"), 500)
            other.sign_in(typed, self.plant("password after it at a defect"), 500)
            self.token(self.boss.username, self.plant("password at a defect of the API"), 500)
        with renamed("users"):
            self.token(self.plant("password in the field of the name at a defect of the API"), "any", 500)
        service = self.services["answers"]
        endpoint = service.endpoints.get()
        stored = {"id": endpoint.id, "base_url": endpoint.base_url, "weight": 5}
        with renamed("audit_entries"):
            fields = rows(service, stored | {"new_credential": self.plant("credential at a defect")})
            self.browser.post(f"{ADMIN}/catalog/service/{service.id}/change/", fields, 500)


@contextmanager
def renamed(table: str) -> Iterator[None]:
    """Meanwhile there is no such table."""
    with superuser_cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {table}_gone")
        try:
            yield
        finally:
            cursor.execute(f"ALTER TABLE {table}_gone RENAME TO {table}")
