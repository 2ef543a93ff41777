"""Elo to expected win rate: the paper's numbers, and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charm_rm.core.elo import (
    covariance_factor,
    draw_elo,
    elo_standard_error,
    expected_win_rate,
)
from charm_rm.core.win_rates import Floats

ratings = st.floats(500, 2000)


def test_the_papers_worked_pair_is_expected_to_win_0_4187() -> None:
    assert expected_win_rate(1216, 1273) == pytest.approx(0.4187, abs=5e-5)


def test_the_updated_elo_pair_of_table_9_moves_the_target() -> None:
    # 1278 against 1316: 1 / (1 + 10^(38/400))
    assert expected_win_rate(1278, 1316) == pytest.approx(1 / (1 + 10**0.095))


@given(ratings, ratings)
def test_two_opponents_win_rates_sum_to_one(elo: float, other: float) -> None:
    assert expected_win_rate(elo, other) + expected_win_rate(other, elo) == pytest.approx(1.0)


@given(ratings, ratings, st.floats(-300, 300))
def test_only_the_difference_of_ratings_matters(elo: float, other: float, shift: float) -> None:
    assert expected_win_rate(elo + shift, other + shift) == pytest.approx(
        float(expected_win_rate(elo, other))
    )


def test_a_column_against_a_row_gives_the_matrix() -> None:
    elo = np.array([1000.0, 1100.0, 1300.0])
    matrix = expected_win_rate(elo[:, None], elo)
    assert matrix.shape == (3, 3)
    assert matrix[0, 2] == pytest.approx(1 / (1 + 10**0.75))


def test_a_95_percent_interval_is_3_92_standard_errors_wide() -> None:
    assert elo_standard_error(1000 - 1.959964, 1000 + 1.959964) == pytest.approx(1.0)


def test_a_rating_without_interval_is_taken_as_exact() -> None:
    assert elo_standard_error(np.nan, np.nan) == 0.0


def test_an_interval_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="upper end below"):
        elo_standard_error([1010.0], [1000.0])


def test_drawn_ratings_have_the_given_mean_and_spread() -> None:
    drawn = draw_elo([1000.0, 1200.0], [0.0, 5.0], n_draws=4000, rng=np.random.default_rng(0))
    assert np.all(drawn[:, 0] == 1000.0)
    assert drawn[:, 1].mean() == pytest.approx(1200.0, abs=0.3)
    assert drawn[:, 1].std() == pytest.approx(5.0, rel=0.05)


@given(arrays(np.float64, (4, 3), elements=st.floats(-50, 50)), st.permutations(range(4)))
def test_a_factor_gives_the_covariance_back_and_its_rows_stand_for_themselves(
    errors: Floats, order: list[int]
) -> None:
    covariance = errors @ errors.T
    factor = covariance_factor(covariance)
    assert factor.shape[1] <= 3
    kept = order[:2]
    assert factor[kept] @ factor[kept].T == pytest.approx(covariance[np.ix_(kept, kept)], abs=1e-8)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], "no negative eigenvalue, got -1"),
        ([[1.0, 0.5], [0.0, 1.0]], "finite and symmetric"),
        ([[np.nan, 0.0], [0.0, 1.0]], "finite and symmetric"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        covariance_factor(covariance)


def test_ratings_that_err_together_are_drawn_together() -> None:
    # standard errors 5 and 6, correlation 0.9: their difference errs by sqrt(25 + 36 - 54) only
    covariance = np.array([[25.0, 27.0], [27.0, 36.0]])
    factor = covariance_factor(covariance)
    drawn = draw_elo([1000.0, 1200.0], factor, n_draws=20_000, rng=np.random.default_rng(0))
    assert drawn.mean(axis=0) == pytest.approx([1000, 1200], abs=0.2)
    assert np.cov(drawn.T) == pytest.approx(covariance, rel=0.03)
    assert np.diff(drawn).std() == pytest.approx(np.sqrt(7.0), rel=0.02)


def test_independent_errors_are_a_diagonal_factor() -> None:
    settings = {"n_draws": 3}
    first = draw_elo([1.0, 2.0], [3.0, 4.0], rng=np.random.default_rng(0), **settings)
    again = draw_elo([1.0, 2.0], np.diag([3.0, 4.0]), rng=np.random.default_rng(0), **settings)
    assert np.array_equal(first, again)
