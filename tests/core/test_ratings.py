"""Bradley-Terry ratings: closed forms, a brute-force twin, laws, intervals, and hard data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from charm_rm.core.battles import (
    BattleCounts,
    Floats,
    Ints,
    bounded_groups,
    count_battles,
    style_differences,
)
from charm_rm.core.elo import expected_win_rate
from charm_rm.core.ratings import LOG_ODDS, RIDGE, Ratings, fit_ratings, resample_ratings


def draw_battles(
    elo: Floats, n_battles: int, *, tie: float = 0.2, effect: float = 0.0, seed: int = 0
) -> tuple[Ints, Ints, Floats, Floats]:
    """Two models of each battle, its outcome, and a style difference with this effect on it."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, elo.size, n_battles)
    second = (first + rng.integers(1, elo.size, n_battles)) % elo.size
    style = rng.normal(size=n_battles)
    rate = expit((elo[first] - elo[second]) / LOG_ODDS + effect * style)
    draw = rng.random(n_battles)
    outcome = np.where(draw < (1 - tie) * rate, 1.0, np.where(draw < (1 - tie), 0.0, 0.5))
    return first, second, outcome, style


def slow_fit(
    first: Ints, second: Ints, outcomes: Floats, features: Floats, n_models: int
) -> tuple[Floats, Floats]:
    """The same likelihood, battle by battle, climbed by a general optimiser."""

    def loss(parameters: Floats) -> tuple[float, Floats]:
        elo, style = parameters[:n_models], parameters[n_models:]
        odds = elo[first] - elo[second] + features @ style
        surprise = outcomes - expit(odds)
        value = -np.sum(
            outcomes * -np.logaddexp(0, -odds) + (1 - outcomes) * -np.logaddexp(0, odds)
        )
        gradient = np.zeros(parameters.size)
        np.add.at(gradient, first, -surprise)
        np.add.at(gradient, second, surprise)
        gradient[n_models:] = -features.T @ surprise
        return float(value), gradient

    start = np.zeros(n_models + features.shape[1])
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    elo = LOG_ODDS * found[:n_models]
    return 1000 + elo - elo.mean(), found[n_models:]


def cycle(n_models: int = 3) -> BattleCounts:
    models = np.arange(n_models)
    return count_battles(models, np.roll(models, 1), outcomes=np.ones(n_models), n_models=n_models)


def test_two_models_differ_by_the_log_of_their_points() -> None:
    counts = count_battles([0] * 4, [1] * 4, outcomes=[1, 1, 0.5, 0], n_models=2)
    ratings = fit_ratings(counts)
    assert ratings.elo[0] - ratings.elo[1] == pytest.approx(400 * np.log10(2.5 / 1.5))
    assert ratings.elo.mean() == pytest.approx(1000)
    assert expected_win_rate(*ratings.elo) == pytest.approx(2.5 / 4)
    assert ratings.ridge == 0


def test_the_sandwich_of_two_models_has_a_closed_form() -> None:
    # The log-odds of 60 points in 100 have a variance of s2 / (n (p (1 - p))^2), where s2 is the
    # mean squared (outcome - p): p (1 - p) without ties, less with ties.
    outcomes = np.repeat([1.0, 0.5, 0.0], [50, 20, 30])
    counts = count_battles([0] * 100, [1] * 100, outcomes=outcomes, n_models=2)
    ratings = fit_ratings(counts, anchor=1)
    spread = np.mean((outcomes - 0.6) ** 2)
    assert ratings.standard_error[0] == pytest.approx(LOG_ODDS * np.sqrt(spread / 100) / 0.24)
    assert ratings.standard_error[1] == 0


def test_a_cycle_of_wins_makes_equal_models() -> None:
    assert fit_ratings(cycle()).elo == pytest.approx([1000, 1000, 1000])


def test_the_slow_twin_finds_the_same_ratings() -> None:
    elo = np.array([800.0, 950, 1000, 1100, 1250])
    first, second, outcomes, _ = draw_battles(elo, 400)
    counts = count_battles(first, second, outcomes=outcomes, n_models=5)
    slow, _ = slow_fit(first, second, outcomes, np.empty((400, 0)), 5)
    assert fit_ratings(counts).elo == pytest.approx(slow, abs=1e-5)


def test_the_slow_twin_finds_the_same_style_effects() -> None:
    elo = np.array([900.0, 1000, 1100, 1000])
    first, second, outcomes, style = draw_battles(elo, 500, effect=0.5)
    features = np.column_stack([style, np.random.default_rng(1).normal(size=500)])
    counts = count_battles(first, second, outcomes=outcomes, n_models=4, features=features)
    ratings = fit_ratings(counts)
    slow, effects = slow_fit(first, second, outcomes, features, 4)
    assert ratings.elo == pytest.approx(slow, abs=1e-5)
    assert ratings.style == pytest.approx(effects, abs=1e-7)


def test_a_planted_style_effect_is_recovered_and_biases_the_ratings_without_control() -> None:
    elo = np.array([1000.0, 1000, 1000])
    rng = np.random.default_rng(3)
    first, second, _, _ = draw_battles(elo, 20000)
    length = np.array([200.0, 400, 800])[np.stack([first, second])] * rng.uniform(
        0.5, 2, (2, 20000)
    )
    style = style_differences(length[0][:, None], length[1][:, None])
    outcomes = (rng.random(20000) < expit(0.4 * style[:, 0])).astype(float)
    counts = count_battles(first, second, outcomes=outcomes, n_models=3, features=style)
    controlled = fit_ratings(counts)
    plain = fit_ratings(count_battles(first, second, outcomes=outcomes, n_models=3))
    assert abs(controlled.style[0] - 0.4) < 3 * controlled.style_error[0]
    assert np.all(np.abs(controlled.elo - 1000) < 3 * controlled.standard_error)
    assert plain.elo[2] - plain.elo[0] > 60  # the long-winded model looks better than it is


@given(st.permutations(range(5)), st.integers(0, 9))
def test_renumbering_the_models_renumbers_the_ratings(order: list[int], seed: int) -> None:
    first, second, outcomes, _ = draw_battles(np.linspace(900, 1100, 5), 200, seed=seed)
    number = np.array(order)
    plain = fit_ratings(count_battles(first, second, outcomes=outcomes, n_models=5))
    moved = fit_ratings(count_battles(number[first], number[second], outcomes=outcomes, n_models=5))
    assert moved.elo[number] == pytest.approx(plain.elo, abs=1e-7)
    assert moved.standard_error[number] == pytest.approx(plain.standard_error, rel=1e-7)


@given(st.integers(0, 4), st.floats(0, 2000), st.integers(0, 9))
def test_an_anchor_shifts_all_ratings_alike(anchor: int, origin: float, seed: int) -> None:
    first, second, outcomes, _ = draw_battles(np.linspace(900, 1100, 5), 200, seed=seed)
    counts = count_battles(first, second, outcomes=outcomes, n_models=5)
    plain, anchored = fit_ratings(counts), fit_ratings(counts, anchor=anchor, origin=origin)
    assert anchored.elo[anchor] == pytest.approx(origin, abs=1e-9)
    assert np.diff(anchored.elo) == pytest.approx(np.diff(plain.elo), abs=1e-7)
    assert np.abs(anchored.covariance[anchor]).max() < 1e-9
    difference = np.array([1.0, 0, 0, 0, -1])  # the variance of a difference has no gauge
    assert difference @ anchored.covariance @ difference == pytest.approx(
        difference @ plain.covariance @ difference
    )


def test_every_model_takes_the_points_that_its_rating_expects() -> None:
    first, second, outcomes, _ = draw_battles(np.linspace(800, 1200, 8), 2000)
    elo = fit_ratings(count_battles(first, second, outcomes=outcomes, n_models=8)).elo
    surprise = outcomes - expected_win_rate(elo[first], elo[second])
    left = np.bincount(first, surprise, 8) - np.bincount(second, surprise, 8)
    assert np.abs(left).max() < 1e-9


def test_twice_the_battles_give_the_same_ratings_and_half_the_variance() -> None:
    first, second, outcomes, _ = draw_battles(np.linspace(900, 1100, 4), 300)
    once = fit_ratings(count_battles(first, second, outcomes=outcomes, n_models=4))
    twice = fit_ratings(
        count_battles(
            np.tile(first, 2), np.tile(second, 2), outcomes=np.tile(outcomes, 2), n_models=4
        )
    )
    assert twice.elo == pytest.approx(once.elo, abs=1e-8)
    assert twice.covariance == pytest.approx(once.covariance / 2)


def test_one_loss_in_a_million_converges() -> None:
    outcomes = np.ones(10**6)
    outcomes[0] = 0
    counts = count_battles(np.zeros(10**6, int), np.ones(10**6, int), outcomes=outcomes, n_models=2)
    ratings = fit_ratings(counts)
    assert ratings.elo[0] - ratings.elo[1] == pytest.approx(400 * np.log10(10**6 - 1))


def test_a_long_ladder_of_near_certain_wins_converges() -> None:
    rungs = np.arange(40)
    first, second = np.repeat(rungs, 100), np.repeat(rungs + 1, 100)
    outcomes = np.tile(np.r_[0.0, np.ones(99)], 40)
    elo = fit_ratings(count_battles(first, second, outcomes=outcomes, n_models=41)).elo
    assert np.diff(elo) == pytest.approx(-400 * np.log10(99), abs=1e-6)


def test_the_bootstrap_agrees_with_the_sandwich() -> None:
    first, second, outcomes, _ = draw_battles(np.linspace(850, 1150, 6), 3000, tie=0.3)
    counts = count_battles(first, second, outcomes=outcomes, n_models=6)
    ratings = fit_ratings(counts)
    samples = resample_ratings(counts, ratings, n_resamples=1500, rng=np.random.default_rng(0))
    assert samples.std(axis=0) == pytest.approx(ratings.standard_error, rel=0.08)
    assert samples.mean(axis=0) == pytest.approx(ratings.elo, abs=1.0)


def test_with_style_the_bootstrap_agrees_with_the_sandwich() -> None:
    first, second, outcomes, style = draw_battles(np.linspace(950, 1050, 3), 800, effect=0.4)
    counts = count_battles(first, second, outcomes=outcomes, n_models=3, features=style[:, None])
    ratings = fit_ratings(counts, anchor=0)
    samples = resample_ratings(counts, ratings, n_resamples=600, rng=np.random.default_rng(0))
    assert np.all(samples[:, 0] == 1000)
    assert samples.std(axis=0)[1:] == pytest.approx(ratings.standard_error[1:], rel=0.12)


def test_one_seed_gives_the_same_resamples() -> None:
    ratings = fit_ratings(cycle())
    once, again = (
        resample_ratings(cycle(), ratings, n_resamples=3, rng=np.random.default_rng(7))
        for _ in range(2)
    )
    assert np.array_equal(once, again)


def test_95_percent_intervals_cover_the_planted_difference_in_95_percent_of_the_data_sets() -> None:
    planted = np.linspace(850, 1150, 5)
    covered = []
    for seed in range(400):
        first, second, outcomes, _ = draw_battles(planted, 1000, tie=0.0, seed=seed)
        fit = fit_ratings(count_battles(first, second, outcomes=outcomes, n_models=5), anchor=0)
        error = fit.elo - planted + planted[0] - 1000
        covered.append(np.abs(error[1:]) < 1.959964 * fit.standard_error[1:])
    assert 0.93 < np.mean(covered) < 0.97


def separable(n_battles: int = 10) -> Ratings:
    """One model that won all its battles, two that shared theirs."""
    first = [0] * n_battles + [1, 2]
    second = [1] * n_battles + [2, 1]
    return fit_ratings(count_battles(first, second, outcomes=np.ones(len(first)), n_models=3))


def test_a_model_that_only_won_gets_a_finite_rating_that_says_so() -> None:
    ratings = separable()
    assert ratings.ridge == RIDGE
    assert np.all(np.isfinite(ratings.elo))
    assert ratings.gradient < 1e-9
    assert 400 < ratings.elo[0] - ratings.elo[1] < 2000
    assert ratings.elo[1] == pytest.approx(ratings.elo[2], abs=40)


def test_a_model_that_only_won_is_known_badly_however_often_it_won() -> None:
    assert separable(10).standard_error[0] > 200
    assert separable(1000).standard_error[0] > 200
    assert separable(1000).elo[0] > separable(10).elo[0]


def test_style_that_decides_every_battle_is_separable_too() -> None:
    style = np.array([1.0, -1, 1, -1])[:, None]
    counts = count_battles(
        [0, 0, 1, 1], [1, 1, 0, 0], outcomes=[1, 0, 1, 0], n_models=2, features=style
    )
    assert not bounded_groups(counts).any()
    ratings = fit_ratings(counts)
    assert ratings.ridge == RIDGE
    assert np.isfinite(ratings.style[0])
    assert ratings.style[0] > 2


def test_groups_that_never_met_are_refused_and_named() -> None:
    counts = count_battles([0, 3], [2, 1], outcomes=[0.5, 0.5], n_models=4)
    with pytest.raises(ValueError, match=r"2 groups of models never met: \[\[0, 2\], \[1, 3\]\]"):
        fit_ratings(counts)


def test_style_features_that_repeat_each_other_are_refused() -> None:
    style = np.array([[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0]])
    counts = count_battles([0, 0, 1], [1, 1, 0], outcomes=[1, 0, 1], n_models=2, features=style)
    with pytest.raises(ValueError, match="depend on each other"):
        fit_ratings(counts)


def test_style_that_is_the_model_by_another_name_is_refused() -> None:
    style = np.array([1.0, 1.0, -1.0])[:, None]
    counts = count_battles([0, 0, 1], [1, 1, 0], outcomes=[1, 0, 0.5], n_models=2, features=style)
    with pytest.raises(ValueError, match="or on the models"):
        fit_ratings(counts)


def test_an_anchor_that_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="anchor must be a model from 0 to 2, got 3"):
        fit_ratings(cycle(), anchor=3)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one resample, got 0"):
        resample_ratings(cycle(), fit_ratings(cycle()), n_resamples=0, rng=np.random.default_rng(0))
