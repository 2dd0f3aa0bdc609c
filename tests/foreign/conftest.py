import pytest

from tests.telling import Telling


@pytest.fixture(autouse=True)
def without_asking_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each of thousands of requests it would take longer than the requests."""
    monkeypatch.setattr(Telling, "minds", False)
