from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from tests.committed import audit_trail_may_be_emptied, committed

__all__ = ["anchors_file", "audit_trail_may_be_emptied", "committed"]


@pytest.fixture
def anchors_file(tmp_path: Path, settings: Settings) -> Path:
    """Where anchors are written in one test."""
    settings.AUDIT_ANCHOR_FILE = tmp_path / "worker" / "anchors"
    return tmp_path / "worker" / "anchors"
