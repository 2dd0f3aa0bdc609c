import pytest

from keys import hashing
from tests import factories


@pytest.fixture(autouse=True)
def _keys_cost_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it matters what it takes to prove one."""
    monkeypatch.setattr(factories, "hash_secret", hashing.hash_secret)
