"""The parts of one gateway process: made, started, kept up to date and stopped here."""

import asyncio
import contextlib
import gc
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import hiredis
from django.conf import settings
from django.db import DatabaseError, connection, transaction

from analytics import events
from analytics.buffer import EventBuffer
from catalog import snapshot
from consumption.changes import ChangeListener
from consumption.endpoint_troubles import TroubleTeller
from consumption.gateway import Gateway
from consumption.hand_in import HandIn
from consumption.idempotency import Idempotency
from consumption.kept_answers import KeptAnswers
from consumption.local_mode import LocalMode, Mode
from consumption.presence import Presence
from consumption.retained import Retained
from consumption.settlement import Settlement
from consumption.spool import Spool
from consumption.tokenizer import Tokenizer
from consumption.upstream import Upstream
from keys import last_used, proofs
from keys.keyring import Keyring, in_database_thread
from keys.shared_proofs import SharedProofs
from metering import gateways
from metering.topology import parse_address
from policy.engine import PolicyEngine, Rule
from policy.rules import load_rules
from quotas import predecessors, safety
from quotas.admission import Admission
from quotas.cluster import Cluster
from quotas.line import Argument, Line, LineError, Lines
from quotas.local_admission import LocalAdmission
from quotas.shares import Shares

log = logging.getLogger(__name__)

#: How long a stopping gateway waits for its calls and for Valkey to take what they cost.
STOP_SECONDS = 35.0
#: How long those have to settle that it then cuts. On the lane the server has cut them before.
CUT_SECONDS = 5.0
#: After how long work that failed is begun again.
BEGIN_AGAIN_SECONDS = 1.0


class Runtime:
    """One gateway and everything that runs beside its calls."""

    def __init__(self) -> None:
        self.spool = Spool(settings.SPOOL_DIR, Retained(settings.RETAINED_MOST_BYTES))
        self.spool.open()
        self.events = EventBuffer()
        self.line = self._lines()
        self.admission = Admission(
            self.line, gateway=f"{self.spool.name}:{time.time_ns()}", journal_bound=settings.JOURNAL_BOUND
        )
        self.shares = Shares(self.admission, gateways=settings.MAX_GATEWAYS)
        self._alone = LocalAdmission(self.shares)
        local = LocalMode(self._alone, self.spool)
        self.settlement = Settlement(self.admission, self.spool, local)
        self.hand_in = HandIn(self.admission, self.settlement, self.spool)
        self.presence = Presence(self.settlement, self.spool, lambda: self.mode)
        self.gateway = Gateway(
            keyring=Keyring(proofs.of_process(), SharedProofs(self._shared_proof)),
            admission=self.admission,
            upstream=Upstream(max_connections=settings.UPSTREAM_MAX_CONNECTIONS),
            settlement=self.settlement,
            shares=self.shares,
            local=local,
            tokenizer=Tokenizer(),
            idempotency=Idempotency(
                KeptAnswers(self.line, most_bytes=settings.IDEMPOTENCY_MAX_ANSWER_BYTES), self.settlement
            ),
            events=self.events,
            most_body_bytes=settings.MAX_BODY_BYTES,
        )
        self.lane = settings.LANE
        self.behind_proxies = bool(settings.TRUSTED_PROXIES)
        self.catalogue_loaded = False
        self._troubles = TroubleTeller(self.gateway.upstream.router, self.line, self.spool.name)
        self._loader = ThreadPoolExecutor(1, "catalogue")
        self._reload = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._changes = ChangeListener(
            settings.DATABASE_URL,
            asyncio.get_running_loop(),
            on_change=self._on_change,
            on_resync=self._on_resync,
            on_heard=self.gateway.keyring.heard,
        )

    async def start(self) -> None:
        """Connect, and begin to listen. Calls are answered 503 until the catalogue and the counters are there."""
        # What was made until now stays for ever, and a call leaves few cycles behind: searching for garbage after
        # every 700 new objects was a twentieth of a call's cost.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        await self.line.start()
        self._changes.start()
        for work in (
            self._keep_catalogue,
            self.hand_in.keep_looking,
            self._keep_company,
            self._keep_last_used,
            self.settlement.keep_renewing,
            partial(self.spool.keep_settling, self.admission),
            self.shares.keep_refreshing,
            partial(self.events.run, self._send_events),
            self._troubles.keep_telling,
            self._keep_reporting,
        ):
            self._tasks.append(asyncio.create_task(kept_up(work)))

    async def _calls_end(self, *, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.settlement.idle.wait(), within)

    async def stop(self) -> None:
        """Let running calls end, hand in what they cost, close. The server has stopped accepting by now."""
        await self._calls_end(within=STOP_SECONDS)
        self.settlement.cut()
        await self._calls_end(within=CUT_SECONDS)
        if len(self.spool):
            await self.spool.settle_all(self.admission)
        with contextlib.suppress(LineError, hiredis.ReplyError):
            await self.events.flush(self._send_events)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.hand_in.stop()
        await self.shares.give_back()
        await self._write_last_used()
        await self._write(self.presence.leave)
        self._changes.stop()
        await self.line.stop()
        await self.gateway.upstream.close()
        await self.gateway.tokenizer.close()
        self.gateway.keyring.close()
        self.gateway.idempotency.close()
        self.spool.close()

    @property
    def dependencies(self) -> dict[str, str]:
        """Each dependency and its state."""
        return {
            "postgresql": "up" if self._changes.connected else "down",
            "valkey": (self.valkey_unsafe or "up") if self.line.is_open else "down",
            "limits": "live" if self.admission.is_live else "rebuilding",
            "admission": self.mode,
            "catalogue": "loaded" if self.catalogue_loaded else "missing",
        }

    @property
    def is_ready(self) -> bool:
        """Whether calls with a known key would be served. PostgreSQL may be down for that, and Valkey in local mode."""
        if not self.catalogue_loaded or self.valkey_unsafe:
            return False
        return self._is_live or (self.mode == "local" and self.shares.any_held)

    @property
    def _is_live(self) -> bool:
        return self.admission.is_partly_live if settings.VALKEY_CLUSTER else self.admission.is_live

    @property
    def mode(self) -> Mode:
        """Who decides about limits now."""
        if self._is_live:
            return "normal"
        offers = self.gateway.snapshot.offers.values()
        return "local" if not self.line.is_open and any(offer.local for offer in offers) else "closed"

    @property
    def valkey_unsafe(self) -> str:
        """What in the settings of a server could lose usage; empty where nothing does."""
        return next((line.unsafe for line in self.line.by_shard if line.unsafe), "")

    # -- Valkey --------------------------------------------------------------------------------------------------

    def _lines(self) -> Lines:
        if not settings.VALKEY_CLUSTER:
            return Line(settings.REDIS_URL, on_connect=self._on_connect)
        return Cluster(
            settings.REDIS_URL,
            [parse_address(node) for node in settings.VALKEY_CLUSTER],
            on_connect=self._on_connect,
            on_moved=lambda shard: self.admission.moved(shard),
        )

    async def _on_connect(self, line: Line) -> None:
        await safety.look_at(line)
        if line.unsafe:
            log.error("Valkey is %s", line.unsafe)
        await self.admission.on_connect(line)

    async def _look_at_unsafe(self) -> None:
        """A master that was a replica until now may be writing its append-only file anew, and be safe in a moment."""
        for line in {line for line in self.line.by_shard if line.unsafe and line.is_open}:
            await safety.look_at(line)

    async def _keep_company(self) -> None:
        """Once all shards are live, this gateway serves by itself no longer, and its earlier lives are over."""
        reaped = False
        while True:
            await asyncio.sleep(0.1)
            with contextlib.suppress(LineError, hiredis.ReplyError):
                await self._look_at_unsafe()
                if not self.admission.is_live:
                    continue
                self._alone.not_alone()
                # Not before what they served by themselves is counted: their shares hold the room for it.
                if not reaped and not self.spool.has_adopted:
                    await self._reap_predecessors()
                    reaped = True

    async def _reap_predecessors(self) -> None:
        """Calls that an earlier life of this gateway left open are over."""
        closed = await predecessors.reap(self.admission, self.spool.predecessors)
        if closed:
            log.warning("closed %d leases of a gateway that died", closed)

    async def _send_events(self, batch: list[bytes]) -> None:
        for event in batch:
            await self.line.call(
                ("XADD", events.STREAM, "MAXLEN", "~", events.STREAM_MAXLEN, "*", events.STREAM_FIELD, event),
                timeout=1.0,
            )

    async def _shared_proof(self, command: tuple[Argument, ...]) -> Any:
        """Valkey only spares Argon2 here: without an answer a key is proven as if there were none."""
        try:
            return await self.line.call(command)
        except (LineError, hiredis.ReplyError):
            return None

    # -- PostgreSQL ----------------------------------------------------------------------------------------------

    def _on_change(self, table: str, value: str) -> None:
        keyring = self.gateway.keyring
        if table == "api_keys":
            keyring.forget(value)
        elif table in {"consumers", "entitlements", "consumer_budgets"}:
            keyring.forget_consumer(uuid.UUID(value))
        else:
            self._reload.set()

    def _on_resync(self) -> None:
        self.gateway.keyring.doubt_all()
        self._reload.set()

    async def _keep_last_used(self) -> None:
        while True:
            await asyncio.sleep(last_used.SECONDS)
            await self._write_last_used()

    async def _write_last_used(self) -> None:
        await self._write(last_used.write)

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(gateways.REPORT_EVERY_SECONDS)
            await self._write(self.presence.reporting())

    async def _write(self, write: Callable[[], object]) -> None:
        """What can wait until PostgreSQL is there again."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._loader, in_database_thread, write)
        except DatabaseError as error:
            log.warning("PostgreSQL was not told: %s", type(error).__name__)

    async def _keep_catalogue(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                if not self.catalogue_loaded:
                    # Who lets a call in is on the register before.
                    await loop.run_in_executor(self._loader, in_database_thread, self.presence.reporting())
                loaded, rules = await loop.run_in_executor(self._loader, in_database_thread, read_catalogue)
            except DatabaseError as error:
                log.warning("catalogue not read: %s", type(error).__name__)
                await asyncio.sleep(0.5)
                self._reload.set()
                continue
            except Exception:
                self._reload.set()  # what was not read is read again, and told each time
                raise
            self.gateway.snapshot, self.gateway.policies = loaded, PolicyEngine(rules)
            endpoints = (endpoint for offer in loaded.offers.values() for endpoint in offer.endpoints)
            self.gateway.upstream.router.keep(endpoints)
            self.catalogue_loaded = True


def read_catalogue() -> tuple[snapshot.Snapshot, list[Rule]]:
    """Catalogue and rules as of one moment: a service that came in between would be known without its price."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return snapshot.load(), load_rules()


async def kept_up(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Do what goes on for ever. A defect in it is told, and does not end it: leases would not be renewed any more."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s failed, and begins again", getattr(work, "__name__", work))
        await asyncio.sleep(BEGIN_AGAIN_SECONDS)


_current: Runtime | None = None


async def start() -> Runtime:
    """Start this process's gateway."""
    global _current
    _current = Runtime()
    await _current.start()
    return _current


async def stop() -> None:
    """Stop this process's gateway."""
    global _current
    if _current is not None:
        await _current.stop()
        _current = None


def current() -> Runtime | None:
    """This process's gateway; None where it has none (the console, a command)."""
    return _current
