"""Changes of keys, prices, tiers and policies, heard from PostgreSQL the moment they commit."""

import asyncio
import logging
import select
import threading
import time
from collections.abc import Callable
from functools import partial

import psycopg2
import psycopg2.extensions

log = logging.getLogger(__name__)

CHANNEL = "marketplace_changes"
#: How often the connection is tried: a dead one must not look like a quiet one. Well below the second of silence
#: after which gateways stop believing what they hold.
HEARTBEAT_SECONDS = 0.4
RECONNECT_SECONDS = 0.5


class ChangeListener(threading.Thread):
    """A thread with one connection that listens.

    ``on_change(table, value)`` runs in the event loop for each change; ``on_resync()`` after every (re)connect,
    since changes made meanwhile were not heard; ``on_heard(at)`` when all changes before a moment (monotonic seconds)
    have been handed over. psycopg2 blocks, hence the thread.
    """

    def __init__(
        self,
        database_url: str,
        loop: asyncio.AbstractEventLoop,
        *,
        on_change: Callable[[str, str], None],
        on_resync: Callable[[], None],
        on_heard: Callable[[float], None],
    ) -> None:
        super().__init__(name="changes", daemon=True)
        self._database_url = database_url
        self._loop = loop
        self._on_change = on_change
        self._on_resync = on_resync
        self._on_heard = on_heard
        self._stopping = threading.Event()
        self.connected = False

    def run(self) -> None:
        """Listen until ``stop``; reconnect for ever."""
        while not self._stopping.is_set():
            try:
                self._listen()
            except psycopg2.Error as error:
                log.warning("not hearing of changes: %s", type(error).__name__)
            self.connected = False
            self._stopping.wait(RECONNECT_SECONDS)

    def stop(self) -> None:
        """End the thread; it takes a heartbeat at most."""
        self._stopping.set()

    def _listen(self) -> None:
        connection = psycopg2.connect(
            self._database_url,
            connect_timeout=5,
            # A server that vanishes without a word must not look like a quiet one.
            keepalives_idle=1,
            keepalives_interval=1,
            keepalives_count=3,
            tcp_user_timeout=3000,
        )
        try:
            connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
            cursor = connection.cursor()
            cursor.execute(f"LISTEN {CHANNEL}")
            self.connected = True
            # In this order: what is held from before was right when the old connection was heard last, not now.
            self._post(self._on_resync)
            tried_at = self._try(connection, cursor)
            while not self._stopping.is_set():
                if select.select([connection], [], [], HEARTBEAT_SECONDS)[0]:
                    connection.poll()
                    self._hand_over(connection)
                # By the clock, not by silence: who hears much must know just as well that nothing is missing.
                if time.monotonic() - tried_at >= HEARTBEAT_SECONDS:
                    tried_at = self._try(connection, cursor)
        finally:
            connection.close()

    def _try(self, connection: psycopg2.extensions.connection, cursor: psycopg2.extensions.cursor) -> float:
        """Ask for an answer: it comes after all that was to be heard before it. Returns when it was asked for."""
        asked_at = time.monotonic()
        cursor.execute("SELECT 1")
        self._hand_over(connection)
        self._post(partial(self._on_heard, asked_at))
        return asked_at

    def _hand_over(self, connection: psycopg2.extensions.connection) -> None:
        notices, connection.notifies[:] = list(connection.notifies), []
        for notice in notices:
            table, _, value = notice.payload.partition(":")
            self._post(partial(self._on_change, table, value))

    def _post(self, callback: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)
