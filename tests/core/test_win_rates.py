"""Win rates from margins: by hand, by brute force, and by law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charm_rm.core.win_rates import (
    Floats,
    check_margins,
    hard_win_rate,
    sigmoid_win_rate,
    soft_wins,
    win_rate_matrix,
    wins,
)

margins = arrays(np.float64, st.integers(1, 60), elements=st.floats(-30, 30, width=32))


def test_sigmoid_win_rate_of_two_margins_by_hand() -> None:
    expected = (0.5 + 1 / (1 + np.exp(-2))) / 2
    assert sigmoid_win_rate(np.array([0.0, 2.0])) == pytest.approx(expected)


def test_a_tie_is_half_a_hard_win() -> None:
    assert hard_win_rate(np.array([1.0, 0.0, -1.0, -2.0])) == 0.375


def test_one_score_far_off_makes_no_ties_of_the_others() -> None:
    values = np.linspace(-1.0, 2.0, 60)
    rate = hard_win_rate(values)
    for far in (-1e10, float(np.finfo(np.float32).min)):  # what a failed response is often given
        assert hard_win_rate(np.append(values, far)) == pytest.approx(rate * 60 / 61)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6 / 7.0])
def test_differences_of_decimal_scores_are_ties_at_every_scale_of_scores(scale: float) -> None:
    equal = scale * np.array([0.3, 0.7, 1.1]) - scale * np.array([0.1, 0.5, 0.9]) - scale * 0.2
    assert equal.any()  # but for rounding all three would be 0
    assert hard_win_rate(np.append(np.tile(equal, 20), np.full(20, scale))) == 0.625


@given(margins)
def test_swapping_the_models_turns_a_win_rate_into_its_complement(values: Floats) -> None:
    assert sigmoid_win_rate(-values) == pytest.approx(1 - sigmoid_win_rate(values))
    assert hard_win_rate(-values) == pytest.approx(1 - hard_win_rate(values))


@given(margins, st.floats(0.01, 100))
def test_scaling_scores_and_temperature_together_changes_nothing(
    values: Floats, scale: float
) -> None:
    scaled = sigmoid_win_rate(values * scale, temperature=scale)
    assert scaled == pytest.approx(sigmoid_win_rate(values))


def test_a_cold_temperature_turns_the_sigmoid_rate_into_the_hard_rate() -> None:
    values = np.array([0.3, -0.2, 0.0, 1.0])
    assert sigmoid_win_rate(values, temperature=1e-6) == pytest.approx(hard_win_rate(values))


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_the_win_rate_matrix_equals_two_loops_over_shared_prompts(kind: str) -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(50, 4)), 1)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    matrix = win_rate_matrix(scores, kind=kind, temperature=0.7)  # type: ignore[arg-type]
    for row in range(4):
        for column in range(4):
            total, n = 0.0, 0
            for one, other in zip(scores[:, row], scores[:, column], strict=True):
                if np.isnan(one) or np.isnan(other):
                    continue
                win = 1 / (1 + np.exp(-(one - other) / 0.7))
                total += win if kind == "sigmoid" else float(one > other) + 0.5 * (one == other)
                n += 1
            assert matrix[row, column] == pytest.approx(total / n)


def test_policies_that_share_no_prompt_have_no_win_rate() -> None:
    scores = np.array([[1.0, np.nan], [np.nan, 2.0]])
    assert np.isnan(win_rate_matrix(scores)[0, 1])


def test_missing_margins_stay_missing() -> None:
    assert np.isnan(wins(np.array([np.nan]), kind="hard")).all()
    assert np.isnan(wins(np.array([np.nan]), kind="sigmoid")).all()


@pytest.mark.parametrize("values", [[], [np.nan, 1.0], [np.inf]])
def test_margins_that_are_not_finite_or_not_there_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="need finite margins"):
        check_margins(np.array(values))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        soft_wins(np.array([1.0]), temperature=temperature)


def test_an_unknown_kind_of_win_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="'sigmoid' or 'hard', got 'soft'"):
        wins(np.array([1.0]), kind="soft")  # type: ignore[arg-type]
