"""The look at what a run keeps is not blind."""

import base64
import json
from html import escape
from urllib.parse import quote

import pytest
import redis
from django.conf import settings
from django.db import connection

from keys.format import mint
from tests import factories
from tests.harness.kept_by_run import KeptByRun
from tests.harness.planted import Planted
from tests.harness.servers import RUN

SECRET = mint().secret


@pytest.fixture
def kept() -> KeptByRun:
    """Of which the run's own knows nothing."""
    kept = KeptByRun(RUN)
    kept.remember("", "", SECRET)
    return kept


@pytest.mark.django_db
@pytest.mark.skipif(RUN.postgres is None, reason="looks into the files of a server of the tests' own")
def test_a_row_is_seen_and_one_that_is_gone_too(kept: KeptByRun) -> None:
    name = connection.settings_dict["NAME"]
    assert kept.leaks_in_database(name) == []
    factories.make_consumer(f"before{SECRET}after").delete()
    (found,) = kept.leaks_in_database(name)
    assert found.startswith("an API key in file ")


def test_logs_and_valkey_are_seen(kept: KeptByRun) -> None:
    log, client = RUN.folder / "of-a-test.log", redis.Redis.from_url(settings.REDIS_URL)
    log.write_text(f"mk_live_0123_{SECRET}")
    client.set("of-a-test", SECRET)
    try:
        places = " ".join(kept.leaks_elsewhere())
    finally:
        log.unlink()
        client.delete("of-a-test")
    for place in ("of-a-test.log", "in valkey", ".aof"):
        assert place in places


@pytest.mark.parametrize("before", ["", "x", "xx"])
def test_a_text_is_found_in_other_spellings_and_inside_base64(before: str) -> None:
    planted = Planted()
    text = planted.plant("it", '"quoted" & <secret> 1/2+\xe9')
    whole = f"{before}{text} and more"
    raw = whole.encode("latin-1")
    for kept in (
        raw,
        raw.hex().encode(),
        base64.b64encode(raw),
        base64.urlsafe_b64encode(raw),
        json.dumps(whole).encode(),
        quote(whole, encoding="latin-1").encode(),
        escape(whole).encode("latin-1"),
    ):
        assert planted.found({"a place": kept}) == ["it in a place"], kept
    assert planted.found({"a place": raw.replace(b"secret", b"public")}) == []
