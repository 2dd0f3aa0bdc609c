"""What `make run` tells of the sample marketplace."""

import json
import shlex
from pathlib import Path

import pytest

from devstack.demo import curl_line, parse_seed, write_demo
from devstack.errors import DevstackError
from devstack.layout import Layout, Ports, Surroundings

SEEDED = {
    "admin_user": "admin",
    "admin_password": "it's secret",
    "api_key": "mk_test_1",
    "services": [{"id": "s1", "name": "one", "pricing": {}}],
}


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    return Surroundings(Layout(var=tmp_path), Ports(8000, 8001, 8002), "postgresql://", "redis://")


def test_the_data_are_the_last_line_that_is_an_object(tmp_path: Path) -> None:
    output = tmp_path / "seed.log"
    output.write_text(f"talk\n{{}}\n{json.dumps(SEEDED)}\nmore talk\n")
    assert parse_seed(output) == SEEDED


def test_no_data_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "seed.log").write_text("talk\n")
    with pytest.raises(DevstackError, match="printed no data"):
        parse_seed(tmp_path / "seed.log")


def test_data_that_lack_something_needed_are_refused(surroundings: Surroundings) -> None:
    with pytest.raises(DevstackError, match=r"did not tell: api_key$"):
        write_demo(surroundings, SEEDED | {"api_key": None})
    assert not surroundings.layout.demo_file.exists()


def test_the_curl_line_survives_a_shell(surroundings: Surroundings) -> None:
    words = shlex.split(curl_line(write_demo(surroundings, SEEDED)))
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:8000/api/v1/consume/s1"]
    assert "Authorization: Bearer mk_test_1" in words
    assert set(json.loads(words[-1])) == {"prompt", "max_tokens"}
