"""Authentication by API key: Argon2 once, then a lookup in memory.

Two things are remembered, and forgotten apart. The *proof* that a text is a key's true secret stays (it cannot stop
being true). The *grant*, a key's state and rights, is dropped the moment the database says that something changed,
and read again at the next call.
"""

import asyncio
import hashlib
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections

from common import clock
from common.errors import CredentialsMissing, Forbidden, Unavailable
from keys import format as key_format
from keys import grants
from keys.grants import Grant
from keys.hashing import hash_secret, verify_secret

Result = TypeVar("Result")

#: Proofs, refusals and grants kept at most. About 300 bytes each.
MOST_PROOFS = 200_000
MOST_REFUSALS = 20_000
#: A refused text is refused again without Argon2 for so long.
REFUSAL_SECONDS = 60.0
#: Threads for Argon2: it frees the interpreter, so more would take the event loop's core.
PROVING_THREADS = 2


class InvalidKey(Forbidden):
    """Unknown, mistyped, forged, revoked, expired, suspended: all look alike."""

    code, title = "invalid_api_key", "The API key is not valid"


class Keyring:
    """Proofs and grants of one gateway process. Use from one event loop only."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._proofs: OrderedDict[bytes, str] = OrderedDict()
        self._refusals: OrderedDict[bytes, float] = OrderedDict()
        self._grants: dict[str, Grant] = {}
        self._by_consumer: dict[uuid.UUID, set[str]] = {}
        self._generation = 0
        self._proving: dict[bytes, asyncio.Task[Grant]] = {}
        self._reading: dict[str, asyncio.Task[Grant]] = {}
        self._prover = ThreadPoolExecutor(PROVING_THREADS, "prove")
        self._reader = ThreadPoolExecutor(1, "read-keys")
        self._decoy_hash = hash_secret("no key has this secret")

    async def authenticate(self, text: str | None) -> Grant:
        """The grant of a presented key.

        Raises ``CredentialsMissing`` where there is none, ``InvalidKey`` for every bad one, ``Unavailable`` where
        the key is not known here and the database cannot be asked.
        """
        if not text:
            raise CredentialsMissing()
        digest = hashlib.blake2b(text.encode(), key=self._secret, digest_size=16).digest()
        public_id = self._proofs.get(digest)
        grant = await self._prove_once(digest, text) if public_id is None else await self._grant_of(public_id)
        if not grant.usable():
            raise InvalidKey()
        return grant

    def forget(self, public_id: str) -> None:
        """A key changed: read its state again before it is used."""
        self._generation += 1
        grant = self._grants.pop(public_id, None)
        self._reading.pop(public_id, None)
        if grant is not None:
            self._by_consumer[grant.consumer_id].discard(public_id)

    def forget_consumer(self, consumer_id: uuid.UUID) -> None:
        """A consumer or its entitlements changed: read the state of all its keys again."""
        self._generation += 1
        for public_id in list(self._by_consumer.get(consumer_id, ())):
            self.forget(public_id)

    def forget_all(self) -> None:
        """Changes may have been missed: read every state again. Proofs stay, so no storm of Argon2 follows."""
        self._generation += 1
        self._grants.clear()
        self._by_consumer.clear()
        self._reading.clear()

    def close(self) -> None:
        """Stop the threads."""
        self._prover.shutdown(wait=False, cancel_futures=True)
        self._reader.submit(connections.close_all)
        self._reader.shutdown(wait=True)

    # -- grants --------------------------------------------------------------------------------------------------

    async def _grant_of(self, public_id: str) -> Grant:
        grant = self._grants.get(public_id)
        if grant is not None:
            return grant
        reading = self._reading.get(public_id)
        if reading is None:
            reading = asyncio.get_running_loop().create_task(self._read_grant(public_id))
            self._reading[public_id] = reading
        return await asyncio.shield(reading)

    async def _read_grant(self, public_id: str) -> Grant:
        try:
            while True:
                generation = self._generation
                stored = await self._read(public_id)
                if generation == self._generation:
                    break  # nothing changed while it was read
            if stored is None:
                raise InvalidKey()
            self._remember(stored.grant)
            return stored.grant
        finally:
            if self._reading.get(public_id) is asyncio.current_task():
                del self._reading[public_id]

    def _remember(self, grant: Grant) -> None:
        self._grants[grant.public_id] = grant
        self._by_consumer.setdefault(grant.consumer_id, set()).add(grant.public_id)

    async def _read(self, public_id: str) -> grants.StoredKey | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._reader, in_database_thread, lambda: grants.load(public_id)
            )
        except DatabaseError as error:
            raise Unavailable(retry_after=1) from error

    # -- proofs --------------------------------------------------------------------------------------------------

    async def _prove_once(self, digest: bytes, text: str) -> Grant:
        """However many calls bring the same new key at once, Argon2 runs once."""
        proving = self._proving.get(digest)
        if proving is None:
            self._refuse_known(digest)
            proving = asyncio.get_running_loop().create_task(self._prove(digest, text))
            self._proving[digest] = proving
            proving.add_done_callback(lambda _: self._proving.pop(digest, None))
        return await asyncio.shield(proving)

    def _refuse_known(self, digest: bytes) -> None:
        refused_at = self._refusals.get(digest)
        if refused_at is None:
            return
        if clock.now_ms() / 1000 - refused_at < REFUSAL_SECONDS:
            raise InvalidKey()
        del self._refusals[digest]

    async def _prove(self, digest: bytes, text: str) -> Grant:
        parsed = key_format.parse(text)
        if parsed is None:
            raise InvalidKey()
        stored = await self._read(parsed.public_id)
        # An unknown id costs what a wrong secret costs.
        key_hash = self._decoy_hash if stored is None else stored.key_hash
        proven = await asyncio.get_running_loop().run_in_executor(
            self._prover, verify_secret, key_hash, parsed.secret
        )
        if not proven or stored is None:
            self._keep(self._refusals, digest, clock.now_ms() / 1000, MOST_REFUSALS)
            raise InvalidKey()
        self._keep(self._proofs, digest, parsed.public_id, MOST_PROOFS)
        return await self._grant_of(parsed.public_id)

    @staticmethod
    def _keep(store: OrderedDict[bytes, Result], digest: bytes, value: Result, most: int) -> None:
        store[digest] = value
        if len(store) > most:
            store.popitem(last=False)


def in_database_thread(read: Callable[[], Result]) -> Result:
    """Run a read on this thread's own connection; a connection that died meanwhile is replaced once."""
    try:
        return read()
    except (OperationalError, InterfaceError):
        connection.close()
        return read()
    except DatabaseError:
        connection.close()
        raise
