"""The head of the audit chain, written down where the database's roles do not reach.

One signed line an anchor, in a file that is only ever appended to, and the same in the log, which most installations
send to another machine. Whoever rewrites or shortens the whole chain would have to rewrite all of these too. The key
of the signature is made from ``SECRET_KEY``; ``SECRET_KEY_FALLBACKS`` are accepted.
"""

import errno
import fcntl
import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from django.conf import settings
from django.core import signing

from audit.chain import GENESIS, ChainBroken, Head, head
from audit.models import AuditLink
from common import clock

log = logging.getLogger(__name__)
_signer = signing.Signer(salt="audit.anchors", algorithm="sha256")


def path() -> Path:
    """Where anchors are kept: best on a volume that only the worker writes and somebody else backs up."""
    return Path(settings.AUDIT_ANCHOR_FILE)


def read() -> dict[int, str]:
    """Sequence → hash of every anchor; empty where none was written yet. Raises ``ChainBroken`` on a forged line."""
    try:
        lines = path().read_text().splitlines()
    except FileNotFoundError:
        return {}
    anchors: dict[int, str] = {}
    for line in lines:
        anchor = _parsed(line)
        if anchors.setdefault(anchor.sequence, anchor.hash) != anchor.hash:
            raise ChainBroken(f"there are two anchors of link {anchor.sequence}")
    return anchors


def anchor_head() -> Head | None:
    """Anchor the head of the chain; None where it is anchored already. Safe to run at any time, and twice at once.

    Raises ``ChainBroken`` when the last anchor no longer fits the chain: nothing is written after that.
    """
    with _opened() as file:
        last = _last(file)
        current = head()
        if not _holds(last):
            raise ChainBroken(f"link {last.sequence} is not the one that was anchored")
        if last == current:
            return None
        _append(file, current)
    log.info("audit chain anchored: link %d is %s", current.sequence, current.hash)
    return current


@contextmanager
def _opened() -> Iterator[TextIO]:
    """The file, held against other writers until it is closed."""
    path().parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path(), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _last(file: TextIO) -> Head:
    lines = deque(file, maxlen=1)
    return _parsed(lines[0].rstrip("\n")) if lines else Head(0, GENESIS.hex())


def _holds(anchor: Head) -> bool:
    if anchor.sequence == 0:
        return True
    found = AuditLink.objects.filter(sequence=anchor.sequence).values_list("hash", flat=True).first()
    return found is not None and bytes(found).hex() == anchor.hash


def _append(file: TextIO, anchor: Head) -> None:
    """Whole and on disk, or not at all: half a line would read as a forged one."""
    text = json.dumps({"sequence": anchor.sequence, "hash": anchor.hash, "at": clock.now().isoformat()})
    line = _signer.sign(text).encode() + b"\n"
    end = file.seek(0, os.SEEK_END)
    try:
        if os.write(file.fileno(), line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), end)
        raise


def _parsed(line: str) -> Head:
    try:
        anchor = json.loads(_signer.unsign(line))
    except signing.BadSignature as error:
        raise ChainBroken(f"an anchor in {path().name} was not written by us") from error
    return Head(anchor["sequence"], anchor["hash"])
