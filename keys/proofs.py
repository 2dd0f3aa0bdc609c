"""Proving that a text is a key's true secret: Argon2, and what is remembered so that it runs seldom.

One of them a process, shared by the lane and Django's views. May be used from any thread.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from common.errors import Unavailable
from keys.errors import InvalidKey
from keys.failures import Failures
from keys.format import ParsedKey
from keys.hashing import hash_secret, verify_secret

Value = TypeVar("Value")

#: Proofs and refusals kept at most. About 300 bytes each.
MOST_PROOFS = 200_000
MOST_REFUSALS = 20_000
#: A refused text is refused again without Argon2 for so long.
REFUSAL_SECONDS = 60.0
#: Threads for Argon2: it frees the interpreter, so more would take the event loop's core.
PROVING_THREADS = 2
#: How much they stand back behind the event loop when both want the same core.
NICENESS = 10
#: Proofs that may wait for a thread, and for how long: an id that is 5 s old is admitted no more.
MOST_WAITING = 64
WAITING_SECONDS = 2.0


class Proofs:
    """What was proven, what was refused, and the threads that find out."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._lock = threading.Lock()
        self._proven: OrderedDict[bytes, str] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._failures = Failures()
        self._waiting = 0
        self._threads = ThreadPoolExecutor(PROVING_THREADS, "prove", initializer=_stand_back)
        #: What stands for the hash of an unknown id, which so costs what a wrong secret costs.
        self.decoy_hash = hash_secret("no key has this secret")

    def digest(self, text: str) -> bytes:
        """What a text is remembered by: nothing that another process could use."""
        return hashlib.blake2b(text.encode(), key=self._secret, digest_size=16).digest()

    def proven(self, digest: bytes) -> str | None:
        """The hash that the text was proven against, or None."""
        key_hash = self._proven.get(digest)
        if key_hash is not None:
            try:  # noqa: SIM105 - the context manager costs more than all the rest
                self._proven.move_to_end(digest)
            except KeyError:
                pass  # another thread's newcomer has just pushed it out
        return key_hash

    def refuse_known(self, digest: bytes) -> None:
        """Raises ``InvalidKey`` for a text that was refused a short while ago."""
        refused_at = self._refused.get(digest)
        if refused_at is not None and time.monotonic() - refused_at < REFUSAL_SECONDS:
            raise InvalidKey

    def refuse_guessing(self, parsed: ParsedKey, address: str) -> None:
        """Raises ``TooManyFailures`` where its id or address has failed too often."""
        self._failures.check(address, parsed.public_id)

    def start(self, secret: str, key_hash: str) -> "Future[bool]":
        """Argon2 in a thread. Raises ``Unavailable`` where too many wait; so does the result where one waited long."""
        with self._lock:
            if self._waiting >= MOST_WAITING:
                raise Unavailable(retry_after=1)
            self._waiting += 1
        return self._threads.submit(self._verify, time.monotonic(), key_hash, secret)

    def _verify(self, asked_at: float, key_hash: str, secret: str) -> bool:
        with self._lock:
            self._waiting -= 1
        if time.monotonic() - asked_at > WAITING_SECONDS:
            raise Unavailable(retry_after=1)
        return verify_secret(key_hash, secret)

    def remember(self, digest: bytes, key_hash: str) -> None:
        """The text is the true secret of that hash."""
        with self._lock:
            _keep(self._proven, digest, key_hash, MOST_PROOFS)

    def refuse(self, digest: bytes, parsed: ParsedKey, address: str) -> InvalidKey:
        """The text is not a true secret: remembered, and counted. Returns what to raise."""
        with self._lock:
            _keep(self._refused, digest, time.monotonic(), MOST_REFUSALS)
        self._failures.count(address, parsed.public_id)
        return InvalidKey()

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _keep(store: OrderedDict[bytes, Value], digest: bytes, value: Value, most: int) -> None:
    store[digest] = value
    store.move_to_end(digest)
    if len(store) > most:
        store.popitem(last=False)


def _stand_back() -> None:
    # Where that is not allowed, the threads share the core as they are.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


_of_process: Proofs | None = None
_making = threading.Lock()


def of_process() -> Proofs:
    """This process's proofs, made when first asked for: a command needs none."""
    global _of_process
    with _making:
        if _of_process is None:
            _of_process = Proofs()
        return _of_process
