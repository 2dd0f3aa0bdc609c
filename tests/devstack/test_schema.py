"""The mark that lets a second start go on without waiting for `migrate`."""

from pathlib import Path

import pytest

from devstack.schema import MigrationMark


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "app" / "migrations").mkdir(parents=True)
    (tmp_path / "app" / "migrations" / "0001_initial.py").write_text("one")
    (tmp_path / "data").mkdir()
    return tmp_path


def test_it_fits_until_a_migration_is_added_or_changed(root: Path) -> None:
    mark = MigrationMark(root, root / "data")
    assert not mark.fits()
    mark.set()
    assert mark.fits()
    (root / "app" / "migrations" / "0002_more.py").write_text("two")
    assert not mark.fits()
    mark.set()
    (root / "app" / "migrations" / "0002_more.py").write_text("changed")
    assert not mark.fits()


def test_other_versions_of_packages_do_not_fit(root: Path) -> None:
    mark = MigrationMark(root, root / "data")
    mark.set()
    (root / "requirements.txt").write_text("django==5.2.20")
    assert not mark.fits()


def test_a_database_that_is_not_ours_never_fits(root: Path) -> None:
    mark = MigrationMark(root, None)
    mark.set()
    assert not mark.fits()
