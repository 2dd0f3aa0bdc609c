from pathlib import Path

import pytest
from pytest_django import Settings

from tests.committed import audit_trail_may_be_emptied, committed
from tests.metering.market import Market, market

__all__ = ["Market", "audit_trail_may_be_emptied", "committed", "market"]


@pytest.fixture(autouse=True)
def export_folder(tmp_path: Path, settings: Settings) -> Path:
    settings.EXPORT_DIR = tmp_path / "exports"
    return tmp_path / "exports"
