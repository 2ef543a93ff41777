"""The expected best of k scores, against the draws written out and against known distributions."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charm_rm.core.order_statistics import best_of_n_kl, expected_maximum

samples = arrays(np.float64, st.integers(1, 9), elements=st.floats(-50, 50))


@given(samples, st.data())
def test_the_mean_is_that_over_all_draws(scores: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    draws = [max(draw) for draw in combinations(scores.tolist(), k)]
    assert float(expected_maximum(scores, k)) == pytest.approx(np.mean(draws), abs=1e-9)


@given(samples)
def test_one_is_the_mean_and_all_are_the_highest(scores: np.ndarray) -> None:
    assert float(expected_maximum(scores, 1)) == pytest.approx(scores.mean(), abs=1e-9)
    assert float(expected_maximum(scores, len(scores))) == scores.max()


@given(samples, st.floats(-9, 9), st.floats(0.1, 9))
def test_it_moves_with_the_scores_and_rises_with_k(
    scores: np.ndarray, shift: float, scale: float
) -> None:
    curve = [float(expected_maximum(scores, k)) for k in range(1, len(scores) + 1)]
    moved = [float(expected_maximum(scale * scores + shift, k)) for k in range(1, len(scores) + 1)]
    assert moved == pytest.approx([scale * value + shift for value in curve], abs=1e-9)
    assert (np.diff(curve) >= -1e-9).all()


def test_rows_are_taken_one_by_one() -> None:
    table = np.random.default_rng(0).normal(size=(2, 3, 7))
    means = expected_maximum(table, 4)
    assert means.shape == (2, 3)
    assert means[1, 2] == pytest.approx(float(expected_maximum(table[1, 2], 4)))


def test_it_is_unbiased_for_the_best_of_new_samples() -> None:
    # the highest of k uniform draws has mean k / (k + 1); 12 samples, 20,000 prompts
    scores = np.random.default_rng(0).uniform(size=(20_000, 12))
    for k in (1, 2, 4, 8, 12):
        means = expected_maximum(scores, k)
        error = means.std() / np.sqrt(len(means))
        assert means.mean() == pytest.approx(k / (k + 1), abs=4 * error)


def test_many_samples_neither_overflow_nor_lose_weight() -> None:
    assert float(expected_maximum(np.ones(20_000), 10_000)) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("k", [0, 4])
def test_a_draw_that_cannot_be_made_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"the best of {k} needs 1 to n scores a row; there are 3"):
        expected_maximum(np.zeros(3), k)


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        expected_maximum(np.array([0.0, np.nan]), 1)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_the_divergence_is_that_of_a_policy_without_ties(n: int) -> None:
    # of 4,000 equally likely responses the one of rank i is best with ((i+1)^n - i^n) / 4000^n
    grid = np.arange(4_001) / 4_000
    best = np.diff(grid**n)
    kl = float(np.sum(best * np.log(best * 4_000)))
    assert float(best_of_n_kl(n)) == pytest.approx(kl, abs=2e-3)


def test_a_divergence_of_less_than_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="n of at least 1, got 0"):
        best_of_n_kl(0)
