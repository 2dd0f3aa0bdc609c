"""The manifest of a file: what is in it, out of which state of the ledger, and the file's own hash."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import clock
from finance.models import ExportJob
from finance.snapshot import Facts

NAME = "manifest.json"
_PIECE = 1024 * 1024


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex. Raises ``OSError``."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def digest(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def manifest(job: ExportJob, file: Path, facts: Facts) -> dict[str, Any]:
    """``rows`` and amounts are the ledger's, whatever the format makes of them. Amounts are exact, as text."""
    return {
        "file": file.name,
        "format": job.format,
        "bytes": file.stat().st_size,
        "sha256": sha256(file),
        "start": job.start.isoformat(),
        "end": job.end.isoformat(),
        "consumer_id": job.consumer_id and str(job.consumer_id),
        "made_at": clock.now().isoformat(),
        **asdict(facts),
    }


def save(made: dict[str, Any], folder: Path) -> None:
    (folder / NAME).write_text(json.dumps(made, indent=2) + "\n")
