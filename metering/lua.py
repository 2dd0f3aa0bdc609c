"""Lua scripts and the functions they share: Valkey knows no import, so their text is put together here."""

from pathlib import Path


def load(script: Path, *functions: Path) -> str:
    """The script with functions between its first line, which must stay the first, and the rest."""
    shebang, rest = script.read_text().split("\n", 1)
    return "\n".join((shebang, *(function.read_text() for function in functions), rest))


_SCRIPTS = Path(__file__).parent / "scripts"
ADD, SPEND, LEASE, HELD, ADOPT = (
    _SCRIPTS / f"{name}.lua" for name in ("add", "spend", "lease", "held", "adopt")
)
