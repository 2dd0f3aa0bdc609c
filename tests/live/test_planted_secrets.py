"""Secrets go in wherever a secret may, and are found in nothing that the service keeps or says of itself (I11)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection

from devstack.children import ALONE, celery_command, console_command
from devstack.ports import free_port
from devstack.postgres import Postgres
from finance.models import ExportJob
from keys.models import KeyNotice
from keys.tasks import send_notices
from tests.accounts.test_openid import AUDIENCE, ISSUER, Provider
from tests.harness.echoing import BEHAVIOURS, EchoingUpstream, echoing_upstream
from tests.harness.planted import (
    Planted,
    files_in,
    letters_in,
    over_the_wire,
    plant_settings,
    slow_log,
    tables,
)
from tests.harness.waiting import wait_for
from tests.keys.test_leaks import KEY, pem
from tests.live.planting import Planting, unguessable
from tests.live.stack import Stack, answers
from tests.superuser import superuser_cursor

#: Pages of the console that show rows which secrets went by.
PAGES = (
    "/admin/audit/auditentry/", "/admin/axes/accessattempt/", "/admin/keys/apikey/", "/admin/keys/keynotice/",
    "/admin/metering/usagerecord/", "/admin/catalog/service/", "/admin/accounts/user/", "/admin/",
)  # fmt: skip
#: The broker of a stack is its Valkey, in a database of its own.
BROKER = 1


class Processes:
    """Two gateways, a console and a worker, with what they keep in a folder of their own."""

    def __init__(self, stack: Stack, folder: Path, provider: Provider) -> None:
        self.stack, self.folder = stack, folder
        self.environment: Any = {
            "DJANGO_SETTINGS_MODULE": "tests.harness.mailing_settings",
            "MAIL_DIR": str(folder / "mail"),
            "EXPORT_DIR": str(folder / "exports"),
            "OPENID_PROVIDERS": json.dumps({ISSUER: {"audience": AUDIENCE, "jwks_url": provider.url}}),
            "SECRET_SCANNING_KEYS": json.dumps({"one": pem(KEY)}),
        }
        port = free_port()
        self.console_url = f"http://127.0.0.1:{port}"
        stack.start_child("planted-console", console_command(port), **self.environment)
        self.gateways = [
            stack.start_gateway(lane=lane, SPOOL_DIR=str(folder / f"spool-{lane}"), **self.environment)
            for lane in (True, False)
        ]
        wait_for(lambda: answers(f"{self.console_url}/admin/login/"), seconds=60)

    def start_worker(self) -> None:
        command = celery_command("worker", "--pool", "solo", *ALONE)
        self.stack.start_child("planted-worker", command, PROCESS="worker", **self.environment)

    def metrics(self) -> dict[str, bytes]:
        return {f"metrics of {each.url}": each.get("/metrics").content for each in self.gateways}

    def beside(self) -> set[Path]:
        """Files of the stack: logs and the like, and not those that tests keep for themselves."""
        files = (path for path in self.stack.folder.rglob("*") if path.is_file())
        return {path for path in files if not path.name.startswith(("upstream", "password"))}

    def valkey(self, database: int) -> "redis.Redis":
        return redis.Redis.from_url(self.stack.valkey.url.rpartition("/")[0] + f"/{database}")


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.server.shutdown()


@pytest.fixture
def upstream() -> Iterator[EchoingUpstream]:
    with echoing_upstream(unguessable("answer")) as server:
        yield server


@pytest.mark.timeout(600)  # it starts four processes and has a hundred things done
def test_what_is_planted_is_found_nowhere(
    stack: Stack,
    provider: Provider,
    upstream: EchoingUpstream,
    postgres_server: Postgres,
) -> None:
    planted = Planted()
    plant_settings(planted, stack.database_url, stack.valkey.url)
    half = len(upstream.answer) // 2
    planted.plant("answer", upstream.answer, upstream.answer[:half], upstream.answer[half:])
    folder = stack.folder / "planted"
    processes = Processes(stack, folder, provider)
    before = {path: path.stat().st_size for path in (*processes.beside(), postgres_server.log)}
    processes.valkey(0).config_set("slowlog-log-slower-than", 0)
    processes.valkey(0).config_set("slowlog-max-len", 100_000)

    acts = Planting(planted, processes.console_url, processes.gateways)
    acts.services_are_made(upstream, list(BEHAVIOURS))
    acts.people_sign_in_to_the_console()
    acts.people_sign_in_to_the_api()
    acts.keys_are_issued_rotated_misused_and_reported()
    acts.credentials_are_changed()
    acts.calls_are_made(upstream)
    spooled = acts.a_call_is_settled_on_disk(upstream, processes.gateways[0], stack.valkey)
    acts.a_second_factor_is_set_up()
    job = acts.an_export_is_ordered()
    queue = over_the_wire(processes.valkey(BROKER))
    to_broker: Any = {"connection": Connection(processes.stack.valkey.url[:-1] + str(BROKER))}
    send_notices.apply_async(**to_broker)
    processes.start_worker()
    acts.forms_meet_defects()
    wait_for(lambda: ExportJob.objects.get(id=job.id).state == ExportJob.State.DONE, seconds=60)
    wait_for(lambda: KeyNotice.objects.get(api_key__public_id=acts.public_id).sent_at, seconds=60)
    exported = acts.it_is_downloaded(job)

    with superuser_cursor() as cursor:
        places = tables(cursor)
    places |= files_in((*processes.beside(), postgres_server.log), before) | processes.metrics()
    places |= {"spool": spooled, "queue": queue, "export": exported}
    places |= {f"valkey {number}": over_the_wire(processes.valkey(number)) for number in (0, BROKER)}
    places |= letters_in(folder / "mail")
    places |= {"slow log": slow_log(processes.valkey(0))}
    places |= {f"page {path}": acts.browser.get(path).encode() for path in PAGES}
    leaks = planted.found(places)
    assert not leaks, "\n".join(leaks)
    assert_not_blind(places, acts, job)


def assert_not_blind(places: dict[str, bytes], acts: Planting, job: ExportJob) -> None:
    """What has to be in a place is found in it, by the same search."""
    service, consumer = str(acts.services["answers"].id), str(acts.consumer.id)
    expected = {
        acts.public_id: ["table api_keys", "valkey 0", ".aof", "slow log"],
        acts.boss.username: ["table audit_entries", "table users", "page /admin/audit/auditentry/"],
        "unknown:": ["table axes_accessattempt", "page /admin/axes/accessattempt/"],
        "_auth_user_id": ["table django_session"],
        str(job.id): ["queue", "table export_jobs"],
        "finance.tasks.run_export": ["planted-worker.log"],
        f"canary-{consumer}": ["spool", "table usage_records_"],
        str(acts.services["fails"].endpoints.get().id): [
            f"gateway-{gateway.port}.log" for gateway in acts.gateways
        ],
        "New login failure": ["planted-console.log"],
        "ProgrammingError": ["planted-console.log", "letter "],
        "was found in public": ["letter "],
        'relation "audit_entries" does not exist': ["postgres/log"],
        service: [f"metrics of {gateway.url}" for gateway in acts.gateways] + ["export"],
    }
    blind = [
        (text, place)
        for text, wanted in expected.items()
        for place in wanted
        if not _is_in(text, {name: kept for name, kept in places.items() if place in name})
    ]
    assert blind == []


def _is_in(text: str, places: dict[str, bytes]) -> bool:
    canary = Planted()
    canary.plant("canary", text)
    return canary.found(places) != []
