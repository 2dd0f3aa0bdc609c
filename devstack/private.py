"""Files that hold secrets: readable by their owner alone from the moment they exist."""

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace `path` as a whole, so that a reader sees the old text or the new one, never half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


def secret_at(path: Path) -> str:
    """The secret kept at `path`, made on first use (256 bits, hexadecimal)."""
    if not path.exists():
        write_private(path, secrets.token_hex(32))
    return path.read_text().strip()


def private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
