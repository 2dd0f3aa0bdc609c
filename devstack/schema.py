"""Whether the database was migrated to what this checkout holds.

The answer only decides if the other processes wait for `migrate`, which runs at every start: a wrong one costs a
restart of theirs. It is kept with the data, so it goes when the data go.
"""

import hashlib
from pathlib import Path


class MigrationMark:
    def __init__(self, root: Path, folder: Path | None) -> None:
        """`folder` is the data's, or None where they are not ours to keep: no mark then, and never a fit."""
        self.root = root
        self.path = folder / "migrated" if folder else None

    def fingerprint(self) -> str:
        """Over our migrations and, by the versions in use, over everybody else's."""
        digest = hashlib.sha256()
        for file in [*sorted(self.root.glob("*/migrations/*.py")), self.root / "requirements.txt"]:
            if file.exists():
                digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    @property
    def known(self) -> bool:
        """Whether it was ever migrated, to whatever."""
        return self.path is not None and self.path.exists()

    def fits(self) -> bool:
        try:
            return self.path is not None and self.path.read_text() == self.fingerprint()
        except OSError:
            return False

    def set(self) -> None:
        if self.path is not None:
            self.path.write_text(self.fingerprint())
