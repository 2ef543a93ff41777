"""The temperature of labelled pairs: closed forms, laws, and how often its interval covers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from charm_rm.core.temperature import fit_temperature, temperature_interval
from charm_rm.core.win_rates import Floats


def labelled_margins(seed: int = 0) -> Floats:
    """Chosen minus rejected, such that 3 score points are one unit of log-odds."""
    rng = np.random.default_rng(seed)
    values = 6.0 * rng.normal(size=4000)
    return np.where(rng.random(4000) < 1 / (1 + np.exp(-values / 3.0)), values, -values)


def test_right_in_three_of_four_pairs_means_log_odds_of_log_3() -> None:
    found = fit_temperature(np.array([5.0, 5.0, 5.0, -5.0]))
    assert found == pytest.approx(5.0 / np.log(3.0))


def test_the_temperature_that_made_the_labels_is_found() -> None:
    assert fit_temperature(labelled_margins()) == pytest.approx(3.0, rel=0.05)


def test_no_other_temperature_has_a_lower_log_loss() -> None:
    values = labelled_margins(1)

    def loss(temperature: float) -> float:
        return float(np.mean(np.logaddexp(0.0, -values / temperature)))

    found = minimize_scalar(loss, bounds=(0.1, 50.0), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(values) == pytest.approx(found.x, rel=1e-5)


@given(st.integers(0, 1000), st.floats(0.001, 1000))
def test_scaling_the_scores_scales_the_temperature(seed: int, scale: float) -> None:
    values = np.random.default_rng(seed).normal(0.5, 1.0, size=200)
    assert fit_temperature(scale * values) == pytest.approx(scale * fit_temperature(values))


def test_naming_the_pair_the_other_way_round_changes_nothing() -> None:
    values = labelled_margins(2)
    turned = np.random.default_rng(0).random(values.size) < 0.5
    found = fit_temperature(np.where(turned, -values, values), outcomes=np.where(turned, 0.0, 1.0))
    assert found == pytest.approx(fit_temperature(values))


def test_a_tie_is_half_a_pair_each_way() -> None:
    halves = fit_temperature(np.array([1.0, 2.0, -1.0, 2.0]), outcomes=[1.0, 0.5, 1.0, 1.0])
    values = np.array([1.0, 1.0, 2.0, -2.0, -1.0, -1.0, 2.0, 2.0])
    assert halves == pytest.approx(fit_temperature(values))


def test_labels_that_no_temperature_explains_are_refused() -> None:
    with pytest.raises(ValueError, match="all 2 pairs are ordered as labelled"):
        fit_temperature(np.array([1.0, 0.1]))
    with pytest.raises(ValueError, match="do not point toward the labels"):
        fit_temperature(np.array([1.0, -2.0]))
    with pytest.raises(ValueError, match="do not point toward the labels"):
        fit_temperature(np.zeros(3))
    with pytest.raises(ValueError, match="outcomes must lie between 0 and 1"):
        fit_temperature(np.array([1.0, 2.0]), outcomes=[1.0, 2.0])
    with pytest.raises(ValueError, match="need finite margins"):
        fit_temperature(np.array([1.0, np.nan]))


def test_the_interval_of_one_margin_is_that_of_its_log_odds() -> None:
    # 60 right of 80: log-odds log(3), with the variance 1/60 + 1/20 and 79 degrees of freedom
    values = np.repeat([5.0, -5.0], [60, 20])
    reach = 1.9904502102 * np.sqrt(80 / 79 * (1 / 60 + 1 / 20))
    low, high = temperature_interval(values, fit_temperature(values))
    assert (5.0 / low, 5.0 / high) == pytest.approx((np.log(3) + reach, np.log(3) - reach))


def test_labels_of_one_prompt_are_one_observation() -> None:
    values = labelled_margins()[:200]
    thrice, prompts = np.repeat(values, 3), np.repeat(np.arange(200), 3)
    temperature = fit_temperature(values)
    assert fit_temperature(thrice) == pytest.approx(temperature)
    once = temperature_interval(values, temperature)
    assert temperature_interval(thrice, temperature, prompts=prompts) == pytest.approx(once)
    assert np.ptp(temperature_interval(thrice, temperature)) < 0.7 * np.ptp(once)


def test_labels_that_hardly_agree_leave_the_temperature_without_a_bound() -> None:
    values = np.repeat([1.0, -1.0], [32, 28])
    low, high = temperature_interval(values, fit_temperature(values))
    assert low < fit_temperature(values) < high == np.inf


@given(st.integers(0, 1000), st.floats(0.001, 1000))
def test_scaling_the_scores_scales_the_interval(seed: int, scale: float) -> None:
    values = np.random.default_rng(seed).normal(0.8, 1.0, size=200)
    ends = temperature_interval(values, fit_temperature(values))
    found = temperature_interval(scale * values, fit_temperature(scale * values))
    assert found == pytest.approx(tuple(scale * end for end in ends), rel=1e-6)


@pytest.mark.parametrize("n_prompts", [30, 300])
def test_95_percent_intervals_hold_the_temperature_in_about_95_percent(n_prompts: int) -> None:
    rng = np.random.default_rng(n_prompts)
    prompts, held = np.repeat(np.arange(n_prompts), 3), 0
    for _ in range(400):
        values = 6.0 * rng.normal(size=prompts.size) + 3.0 * rng.normal(size=n_prompts)[prompts]
        labels = (rng.random(prompts.size) < 1 / (1 + np.exp(-values / 3.0))).astype(float)
        low, high = temperature_interval(
            values, fit_temperature(values, outcomes=labels), outcomes=labels, prompts=prompts
        )
        held += low <= 3.0 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_what_has_no_interval_is_refused() -> None:
    values = np.array([1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        temperature_interval(values, 0.0)
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
        temperature_interval(values, 1.0, level=1.0)
    with pytest.raises(ValueError, match="at least two prompts, got 1"):
        temperature_interval(values, 1.0, prompts=np.zeros(3, dtype=np.int64))
