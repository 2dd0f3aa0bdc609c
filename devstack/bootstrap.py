"""Makes `.venv` and installs a requirements file into it, once.

Runs under the system's Python, before anything is installed: standard library only. The stamp holds the hash
of what was installed, so the next start costs nothing; the lock lets `make run` and `make test` start side by
side.
"""

import argparse
import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = (3, 11)


class BootstrapError(Exception):
    """Something the person at the keyboard has to change; its text is one line."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def fingerprint() -> str:
    """Over all compiled files: a change to one of them may have replaced what another had installed."""
    digest = hashlib.sha256(f"{sys.version}\n{VENV}\n".encode())
    for file in sorted(ROOT.glob("requirements*.txt")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_usable() -> bool:
    """A half-made or moved environment fails to start its own pip; one of another Python is not this one's."""
    question = (
        f"import pip, sys; sys.exit(sys.prefix == sys.base_prefix or sys.base_prefix != {sys.base_prefix!r})"
    )
    probe = [str(VENV / "bin" / "python"), "-c", question]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def create_venv() -> None:
    say(f"Creating {VENV.name} with Python {sys.version.split()[0]}")
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False).returncode != 0:
        raise BootstrapError(
            "cannot create .venv: this Python has no working venv module (Debian: install python3.11-venv)"
        )


def install(requirements: Path) -> None:
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    say(f"Installing {requirements.name} into {VENV.name} (a minute or so, the first time)")
    # The compiled file is complete. Left to resolve, pip would meet `coverage[toml]>=7` beside a pinned `coverage`,
    # look for a newer one, and refuse it for having no hash.
    exactly = ["--require-hashes", "--no-deps", "-r", str(requirements)]
    if subprocess.run([*pip, *exactly], check=False).returncode != 0:
        raise BootstrapError("the packages could not be installed: see pip's lines above")


def add_checkout_to_path() -> None:
    """So that `.venv/bin/pytest` finds the checkout just as `python -m pytest` does."""
    packages = VENV / "lib" / f"python{PYTHON[0]}.{PYTHON[1]}" / "site-packages"
    (packages / "marketplace.pth").write_text(f"{ROOT}\n")


def is_installed(name: str, wanted: str) -> bool:
    stamp = VENV / f".installed-{name}"
    return stamp.exists() and stamp.read_text() == wanted


def ensure(requirements: Path) -> None:
    # pip asks `rustc` for its version, and where that is rustup's it makes a folder of its own in HOME.
    os.environ.setdefault("RUSTUP_HOME", str(VENV / "rustup"))
    wanted = fingerprint()
    # What development needs holds what the application needs.
    if any(is_installed(name, wanted) for name in (requirements.stem, f"{requirements.stem}-dev")):
        return
    if not is_usable():
        create_venv()
    install(requirements)
    add_checkout_to_path()
    (VENV / f".installed-{requirements.stem}").write_text(wanted)


def locked_ensure(requirements: Path) -> None:
    lock = os.open(ROOT / ".venv.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure(requirements)
    finally:
        os.close(lock)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv and install a requirements file into it.")
    parser.add_argument("requirements", help="requirements.txt or requirements-dev.txt")
    requirements = ROOT / parser.parse_args().requirements
    if sys.version_info[:2] != PYTHON:
        raise BootstrapError(f"Python 3.11 is needed, this is {sys.version.split()[0]}")
    locked_ensure(requirements)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BootstrapError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
