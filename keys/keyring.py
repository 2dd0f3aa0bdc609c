"""Authentication by API key in a gateway: Argon2 once, then two lookups in memory.

Two things are remembered, and forgotten apart. The *proof* that a text is a key's true secret stays (it cannot stop
being true of its hash; ``proofs``). The *state*, a key's rights and whether it still lives, is dropped the moment the
database says that something changed, and read again at the next call (``states``).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections

from common.errors import CredentialsMissing, Unavailable
from keys import format as key_format
from keys import grants, last_used
from keys.errors import InvalidKey
from keys.format import ParsedKey
from keys.grants import Grant, StoredKey
from keys.proofs import Proofs
from keys.shared_proofs import SharedProofs, hash_id
from keys.states import READ_SECONDS, KeyStates

Result = TypeVar("Result")


class Keyring:
    """Proofs and states of one gateway process. Use from one event loop only.

    ``proofs``: those of the process. ``shared``: those that gateways tell each other, where there are any.
    """

    def __init__(self, proofs: Proofs, shared: SharedProofs | None = None) -> None:
        self._proofs = proofs
        self._shared = shared
        self._states = KeyStates(self._read)
        self._proving: dict[bytes, asyncio.Task[StoredKey]] = {}
        self._reader = ThreadPoolExecutor(1, "read-keys")
        self.heard = self._states.heard
        self.forget = self._states.forget
        self.forget_consumer = self._states.forget_consumer
        self.doubt_all = self._states.doubt_all

    async def authenticate(self, text: str | None, address: str) -> Grant:
        """The grant of a key that a client at ``address`` presents.

        Raises ``CredentialsMissing`` where there is none, ``InvalidKey`` for every bad one, ``TooManyFailures``, and
        ``Unavailable`` where the key is not known here and cannot be asked about, or not be proven soon.
        """
        if not text:
            raise CredentialsMissing()
        digest = self._proofs.digest(text)
        key_hash = self._proofs.proven(digest)
        stored: StoredKey | None = None
        if key_hash is None:
            if key_format.parse(text) is None:
                raise InvalidKey()  # here and now: a forgery costs no task
        else:
            public_id = key_format.public_id_of(text)
            stored = self._states.held.get(public_id) or await self._states.get(public_id)
        if stored is None or stored.key_hash != key_hash:
            stored = await self._prove_once(digest, text, address)
        grant = stored.grant
        if not grant.usable() or (grant.networks is not None and not grant.admits(address)):
            raise InvalidKey()
        last_used.note(grant.api_key_id)
        return grant

    def close(self) -> None:
        """Stop the thread."""
        self._reader.submit(connections.close_all)
        self._reader.shutdown(wait=False)

    async def _read(self, public_id: str) -> StoredKey | None:
        return await self._in_reader(lambda: grants.load(public_id))

    async def _prove_once(self, digest: bytes, text: str, address: str) -> StoredKey:
        """However many calls bring the same new key at once, Argon2 runs once."""
        proving = self._proving.get(digest)
        if proving is None:
            parsed = key_format.parse(text)
            if parsed is None:  # a pepper was taken back
                raise InvalidKey()
            self._proofs.refuse_known(digest)
            proving = asyncio.get_running_loop().create_task(self._prove(digest, text, parsed, address))
            self._proving[digest] = proving
            proving.add_done_callback(lambda _: self._proving.pop(digest, None))
        return await asyncio.shield(proving)

    async def _prove(self, digest: bytes, text: str, parsed: ParsedKey, address: str) -> StoredKey:
        told = await self._shared.hash_id(parsed.public_id, text) if self._shared else None
        if told is not None:
            stored = await self._states.get(parsed.public_id)
            if stored is not None and hash_id(stored.key_hash) == told:
                self._proofs.remember(digest, stored.key_hash)
                return stored
        self._proofs.refuse_guessing(parsed, address)
        key_hash = await self._hash_of(parsed.public_id)
        # An unknown id costs what a wrong secret costs.
        proving = self._proofs.start(parsed.secret, key_hash or self._proofs.decoy_hash)
        if not await asyncio.wrap_future(proving) or key_hash is None:
            raise self._proofs.refuse(digest, parsed, address)
        self._proofs.remember(digest, key_hash)
        if self._shared:
            await self._shared.tell(parsed.public_id, text, key_hash)
        stored = await self._states.get(parsed.public_id)
        if stored is None or stored.key_hash != key_hash:
            raise InvalidKey()
        return stored

    async def _hash_of(self, public_id: str) -> str | None:
        try:
            return await asyncio.wait_for(self._in_reader(lambda: grants.hash_of(public_id)), READ_SECONDS)
        except (DatabaseError, TimeoutError) as error:
            raise Unavailable(retry_after=1) from error

    async def _in_reader(self, read: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._reader, in_database_thread, read)


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
