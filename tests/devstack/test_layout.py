"""An installation on one machine makes its secrets once and keeps them."""

import json
from pathlib import Path

import pytest

from devstack.layout import Layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    for name in ("SECRET_KEY", "KEY_PEPPERS", "CREDENTIAL_KEYS"):
        monkeypatch.delenv(name, raising=False)
    return Layout(var=tmp_path)


def test_secrets_are_made_once_for_their_owner_alone(layout: Layout) -> None:
    made = layout.secrets()
    assert set(made) == {"SECRET_KEY", "KEY_PEPPERS", "CREDENTIAL_KEYS"}
    assert layout.secrets() == made
    assert (layout.var / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_an_installation_from_before_gets_what_it_lacks_and_keeps_the_rest(layout: Layout) -> None:
    before = {"SECRET_KEY": "kept", "KEY_PEPPERS": json.dumps({"1": "kept"})}
    (layout.var / "secrets.json").write_text(json.dumps(before))
    found = layout.secrets()
    assert before.items() <= found.items()
    assert layout.secrets()["CREDENTIAL_KEYS"] == found["CREDENTIAL_KEYS"]


def test_the_environment_goes_before_what_is_kept(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = layout.secrets()
    monkeypatch.setenv("CREDENTIAL_KEYS", "from outside")
    assert layout.secrets() == kept | {"CREDENTIAL_KEYS": "from outside"}
