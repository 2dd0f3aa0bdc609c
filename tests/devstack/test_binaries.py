"""The copy of PostgreSQL's binaries that root needs: complete, readable by all, written by nobody else."""

import os
from pathlib import Path

import pytest

from devstack.binaries import PACKAGE, is_trustworthy, listing, made_copy, package_folder, root_copy
from devstack.errors import DevstackError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a copy")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package of two files, one of them a program."""
    program = tmp_path / "packages" / PACKAGE / "pginstall" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.write_text("program")
    program.chmod(0o700)
    library = tmp_path / "packages" / f"{PACKAGE}.libs" / "libpq.so"
    library.parent.mkdir()
    library.write_text("library")
    return tmp_path / "packages"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "copy"


@needs_root
def test_a_copy_is_complete_and_readable_by_everybody(source: Path, place: Path) -> None:
    files = listing(source)
    assert made_copy(source, place, files)
    assert listing(place) == files
    program = place / PACKAGE / "pginstall" / "bin" / "postgres"
    assert (place.stat().st_mode & 0o777, program.stat().st_mode & 0o777) == (0o755, 0o755)
    assert [path.name for path in place.parent.iterdir()] == ["copy"]


@needs_root
def test_a_damaged_copy_is_replaced(source: Path, place: Path) -> None:
    files = listing(source)
    assert made_copy(source, place, files)
    (place / f"{PACKAGE}.libs" / "libpq.so").unlink()
    assert not is_trustworthy(place, files)
    assert made_copy(source, place, files)
    assert is_trustworthy(place, files)


@needs_root
@pytest.mark.parametrize("damage", ["mode", "owner", "link"])
def test_a_copy_that_others_could_write_is_not_used(source: Path, place: Path, damage: str) -> None:
    files = listing(source)
    assert made_copy(source, place, files)
    program = place / PACKAGE / "pginstall" / "bin" / "postgres"
    match damage:
        case "mode":
            program.chmod(0o777)
        case "owner":
            os.chown(place, 65534, 65534)
        case _:
            program.rename(place.parent / "elsewhere")
            program.symlink_to(place.parent / "elsewhere")
    assert not is_trustworthy(place, files)


@needs_root
def test_what_somebody_else_put_in_its_place_stays_and_is_not_used(source: Path, place: Path) -> None:
    place.mkdir()
    (place / "file").write_text("theirs")
    os.chown(place, 65534, 65534)
    assert not made_copy(source, place, listing(source))
    assert (place / "file").read_text() == "theirs"


@needs_root
def test_the_copy_is_made_once() -> None:
    source = package_folder(PACKAGE).parent
    assert root_copy(source) == root_copy(source)


def test_a_missing_package_is_one_clear_line() -> None:
    with pytest.raises(DevstackError, match="no_such_package is not installed"):
        package_folder("no_such_package")
