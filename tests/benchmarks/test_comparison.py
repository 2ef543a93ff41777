"""Intervals of figures, and the paired test between two reward models."""

import numpy as np
import polars as pl
import pytest
from benchmark_builders import group_items, make_scores

from charm_rm.benchmarks.comparison import Comparison, compare_scores
from charm_rm.benchmarks.evaluation import evaluate_scores
from charm_rm.benchmarks.reward_bench import REWARD_BENCH
from charm_rm.benchmarks.rm_bench import RM_BENCH
from charm_rm.data.tables import DataError

NATURAL = "llmbar-natural"


def outcomes(right: list[bool], *, name: str = "rm") -> pl.DataFrame:
    """Scores of pairs that come out as told."""
    rows = [
        (f"{NATURAL}/{item}", place, 0, float(won == (place == "chosen_1")), name)
        for item, won in enumerate(right)
        for place in ("chosen_1", "rejected_1")
    ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model"]
    return pl.DataFrame(rows, schema=names, orient="row")


def compare(first: pl.DataFrame, second: pl.DataFrame, n: int = 20_000) -> Comparison:
    return compare_scores(first, second, benchmark=REWARD_BENCH, n_resamples=n)


def test_the_interval_of_a_share_is_the_one_of_its_standard_error() -> None:
    figure = evaluate_scores(outcomes([True, False] * 200), REWARD_BENCH).figures[0]
    assert figure.value == 0.5
    half = 1.96 * np.sqrt(0.25 / 400)
    assert figure.low == pytest.approx(0.5 - half, abs=0.006)
    assert figure.high == pytest.approx(0.5 + half, abs=0.006)


def test_the_interval_of_a_mean_over_domains_is_that_of_independent_domains() -> None:
    counts = {"chat": 60, "math": 60, "code": 60, "safety-refuse": 30, "safety-response": 30}
    scores = make_scores(group_items(counts, 3, 3), decimals=6)
    found = evaluate_scores(scores, RM_BENCH, n_resamples=4000)
    parts = [found.figure(part, "mean") for part in ("chat", "math", "code", "safety")]
    widths = np.array([part.high - part.low for part in parts if part.high and part.low])
    overall = found.figure("overall", "mean")
    assert overall.high is not None
    assert overall.low is not None
    expected = float(np.sqrt((widths**2).sum())) / 4
    assert overall.high - overall.low == pytest.approx(expected, rel=0.1)


def test_the_same_seed_gives_the_same_and_other_groups_do_not_matter() -> None:
    scores = make_scores(group_items({"chat": 20, "code": 20}, 3, 3))
    both = evaluate_scores(scores, RM_BENCH, n_resamples=200)
    chat = scores.filter(pl.col("prompt_id").str.starts_with("chat"))
    alone = evaluate_scores(chat, RM_BENCH, n_resamples=200)
    assert alone.figure("chat", "hard") == both.figure("chat", "hard")
    other = evaluate_scores(chat, RM_BENCH, n_resamples=200, seed=1)
    assert other.figure("chat", "hard").low != alone.figure("chat", "hard").low


def test_the_paired_test_agrees_with_the_exact_test_of_discordant_pairs() -> None:
    # 10 items only the first gets right, 2 only the second: exact McNemar, 2 P(X <= 2 | 12, 1/2).
    agree = [True] * 30
    first = outcomes(agree + [True] * 10 + [False] * 2)
    second = outcomes(agree + [False] * 10 + [True] * 2, name="other")
    found = compare(first, second).differences[0]
    exact = 2 * (1 + 12 + 66) / 2**12
    assert found.p_value == pytest.approx(exact, abs=0.005)
    assert found.difference == pytest.approx(8 / 42)
    assert found.low is not None
    assert 0 < found.low < found.difference


def test_equal_scores_differ_in_nothing() -> None:
    found = compare(outcomes([True, False, True]), outcomes([True, False, True]), n=100)
    entry = found.differences[0]
    assert (entry.difference, entry.low, entry.high, entry.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_swapping_the_reward_models_negates_the_difference() -> None:
    items = group_items({"chat": 15, "code": 9}, 3, 3)
    first, second = make_scores(items, seed=1), make_scores(items, seed=2, name="other")
    there = compare_scores(first, second, benchmark=RM_BENCH, n_resamples=500)
    back = compare_scores(second, first, benchmark=RM_BENCH, n_resamples=500)
    for one, other in zip(there.differences, back.differences, strict=True):
        assert one.difference == pytest.approx(-other.difference)
        assert one.p_value == other.p_value
        assert one.low == pytest.approx(-other.high)  # type: ignore[operator]
    assert (there.reward_model, there.other) == ("toy-rm", "other")


def test_no_difference_is_found_too_often_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        first, second = (outcomes((rng.random(40) < 0.7).tolist()) for _ in range(2))
        found += compare(first, second, n=199).differences[0].p_value <= 0.05
    assert found <= 20  # of 200 at 5%: 10 expected, and the test is conservative with ties


def test_items_of_one_alone_are_left_out_and_counted() -> None:
    found = compare(outcomes([True, True, False]), outcomes([False, True]), n=50)
    assert found.differences[0].n_items == 2
    assert found.warnings == (
        "1 items of the first and 0 of the second scores have no counterpart and are left out; "
        "2 are compared",
    )
    elsewhere = make_scores(group_items({"donotanswer": 3}, 1, 1))
    with pytest.raises(DataError, match="share no item"):
        compare(outcomes([True]), elsewhere, n=50)


def test_the_order_of_the_rows_does_not_matter() -> None:
    scores = make_scores(group_items({"chat": 20, "code": 5}, 3, 3))
    other = scores.sort("score", "policy", "prompt_id")
    found, again = (evaluate_scores(table, RM_BENCH, n_resamples=50) for table in (scores, other))
    assert found == again


def test_one_resample_is_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2 resamples, got 1"):
        evaluate_scores(outcomes([True]), REWARD_BENCH, n_resamples=1)
