"""What the benchmark makes of what it measured."""

import math
import zlib

import pytest

from bench.figures import Figure
from bench.peers import RECIPES
from bench.steps import quantile, step_times
from bench.wrong_keys import forged
from keys.format import mint, parse

INFINITE = math.inf


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(13_000, "aim"), (12_999, "met"), (9_000, "met"), (8_999, "MISSED"), (math.nan, "not measured")],
)
def test_where_more_is_better_a_figure_must_reach_its_bounds(measured: float, verdict: str) -> None:
    assert Figure("calls", measured, 9_000, 13_000, more_is_better=True).verdict == verdict


@pytest.mark.parametrize(("measured", "verdict"), [(2.0, "aim"), (5.0, "met"), (5.1, "MISSED")])
def test_where_less_is_better_a_figure_must_stay_below_its_bounds(measured: float, verdict: str) -> None:
    assert Figure("latency", measured, 5, 2).verdict == verdict


def test_a_quantile_lies_within_its_bucket_by_the_share_of_what_the_bucket_holds() -> None:
    cumulative = {0.001: 50.0, 0.002: 90.0, INFINITE: 100.0}

    assert quantile(cumulative, 0.5) == pytest.approx(0.001)
    assert quantile(cumulative, 0.7) == pytest.approx(0.0015)
    assert quantile(cumulative, 0.99) == pytest.approx(0.002)  # beyond the last bound: at least that


def test_only_what_was_counted_in_between_makes_a_step_s_time() -> None:
    before = {"admit": {0.001: 100.0, INFINITE: 100.0}, "route": {0.001: 5.0, INFINITE: 5.0}}
    after = {"admit": {0.001: 100.0, INFINITE: 110.0}, "route": {0.001: 5.0, INFINITE: 5.0}}

    (admit,) = step_times(before, after)

    assert admit.step == "admit"
    assert admit.p50 == pytest.approx(1.0)


def test_a_forged_key_has_the_form_and_checksum_of_a_key_and_is_none() -> None:
    key = mint().text
    wrong = forged(key)

    assert (len(wrong), wrong[:24]) == (len(key), key[:24])
    assert f"{zlib.crc32(wrong[:-8].encode()):08x}" == wrong[-8:]
    assert parse(key) is not None
    assert parse(wrong) is None


def test_every_other_gateway_is_installed_at_one_fixed_version() -> None:
    assert [recipe.version for recipe in RECIPES if not recipe.version[0].isdigit()] == []
