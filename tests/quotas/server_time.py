"""The time of a test's own, as the script that admits sees it: ``TIME`` is the one thing of it that is replaced."""

import hashlib
from collections.abc import AsyncIterator

import pytest

from common import clock
from devstack.valkey import Valkey
from quotas import commands
from quotas.admission import Admission
from tests.harness.admission import PATIENT, opened_admission

_CLOCK = "clock"


@pytest.fixture
def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script asks a key what time it is."""
    asked = "call('TIME')"
    assert commands.ADMIT.text.count(asked) == 1
    told = (
        f"{{math.floor(redis.call('GET', '{_CLOCK}') / 1000), redis.call('GET', '{_CLOCK}') % 1000 * 1000}}"
    )
    text = commands.ADMIT.text.replace(asked, told)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    script = commands.Script(text, digest)
    monkeypatch.setattr(commands, "ADMIT", script)
    monkeypatch.setattr(commands, "SCRIPTS", (script, *commands.SCRIPTS[1:]))


async def set_time(admission: Admission, ms: int) -> None:
    await admission._line.call(("SET", _CLOCK, ms), timeout=PATIENT)


@pytest.fixture
async def timed(
    own_time: None, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Admission]:
    """An admission for which time stands still, but where ``set_time`` sets the server's."""
    now = clock.now_ms()
    async with opened_admission(own_valkey.url) as admission:
        await set_time(admission, now)
        monkeypatch.setattr(clock, "now_ms", lambda: now)
        yield admission
