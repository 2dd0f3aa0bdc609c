"""The gateway's side of the tokenizer: a process beside it, started when the first call needs one.

Not in the gateway's own: loading the vocabulary holds the interpreter for more than half a second and takes 70 MB, and
what reads hostile texts in native code must not be able to take a gateway's open calls with it.
"""

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

import msgspec
from django.conf import settings

log = logging.getLogger(__name__)

#: What one count may take. A megabyte takes 12 to 50 ms.
COUNT_SECONDS = 5.0
#: How long a call waits for its turn, and the first ones for the process to start (0.7 s of CPU).
TURN_SECONDS = 30.0
#: Characters that are really counted at most; what lies beyond is counted in proportion.
MOST_COUNTED = 2 * 1024 * 1024
#: A first question, so that no caller's count pays for loading the vocabulary.
_LOAD = msgspec.json.encode(("o200k", ["x"]))


class Tokenizer:
    """Counts for one gateway process, one question at a time. Use from one event loop only."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._asking: set[asyncio.Task[int]] = set()
        self._closed = False

    async def count(self, texts: Sequence[str], rule: str) -> int | None:
        """Tokens of the texts together; None where they could not be counted in time."""
        counted, share = _within(texts)
        if not counted:
            return 0
        # A task of its own: a caller that goes away must not leave an answer in the pipe for the next one.
        asking = asyncio.create_task(self._ask(msgspec.json.encode((rule, counted))))
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        try:
            tokens = await asyncio.shield(asking)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            log.warning("tokens not counted: %s", type(error).__name__)
            return None
        return round(tokens / share)

    async def close(self) -> None:
        """End the process. Who still waits gets None, and so does everyone after."""
        self._closed = True
        await self._end()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def _asked(self, asking: asyncio.Task[int]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # looked at, also where nobody waits any more

    async def _ask(self, question: bytes) -> int:
        async with asyncio.timeout(TURN_SECONDS), self._turn:
            try:
                process = await self._started()
                async with asyncio.timeout(COUNT_SECONDS):
                    return await _answered(process, question)
            except BaseException:
                # Whatever it would still say belongs to a question that nobody waits for.
                await self._end()
                raise

    async def _started(self) -> Process:
        if self._closed:
            raise EOFError
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "consumption.counting"),
                stdin=PIPE,
                stdout=PIPE,
                cwd=settings.BASE_DIR,
                env={},
                start_new_session=True,  # the terminal's Ctrl-C is the gateway's: its last calls are still counted
            )
            await _answered(self._process, _LOAD)
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _answered(process: Process, question: bytes) -> int:
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(len(question).to_bytes(4, "big") + question)
    await process.stdin.drain()
    return int(await process.stdout.readuntil(b"\n"))


def _within(texts: Sequence[str]) -> tuple[list[str], float]:
    """What is really counted, without lone surrogates, and which share of the whole it is."""
    counted: list[str] = []
    left, whole = MOST_COUNTED, 0
    for text in texts:
        whole += len(text)
        if begin := text[:left]:
            counted.append(begin.encode(errors="replace").decode())
            left -= len(begin)
    return counted, (MOST_COUNTED - left) / whole if whole else 1.0
