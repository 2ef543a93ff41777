"""Mismatch Degree against the paper's printed numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.core.elo import expected_win_rate
from charm_rm.core.mismatch import mismatch_degree, signed_mismatch

inside = st.floats(0.001, 0.999)


def test_an_md_of_0_639_means_a_win_rate_of_0_790() -> None:
    assert mismatch_degree(0.790, expected_win_rate(1216, 1273)) == pytest.approx(0.639, abs=5e-4)


@pytest.mark.parametrize(
    ("wins", "n", "printed"),
    [
        (499, 999, 0.296),
        (365, 935, 0.143),
        (662, 1000, 0.525),
        (432, 995, 0.204),
        (233, 995, -0.077),
        (213, 996, -0.106),
    ],
)
def test_the_counts_of_table_8_reproduce_its_mismatch(wins: int, n: int, printed: float) -> None:
    assert signed_mismatch(wins / n, 0.289) == pytest.approx(printed, abs=1.5e-3)
    assert mismatch_degree(wins / n, 0.289) == pytest.approx(abs(printed), abs=1.5e-3)


@given(st.floats(0, 1), inside)
def test_calling_the_other_model_the_policy_only_turns_the_sign(rate: float, target: float) -> None:
    swapped = signed_mismatch(1 - rate, 1 - target)
    assert swapped == pytest.approx(-float(signed_mismatch(rate, target)), abs=1e-12)


@given(st.floats(0, 1), inside)
def test_the_mismatch_degree_lies_between_0_and_1(rate: float, target: float) -> None:
    assert 0.0 <= float(mismatch_degree(rate, target)) <= 1.0


@given(inside)
def test_a_win_rate_as_expected_has_no_mismatch(target: float) -> None:
    assert mismatch_degree(target, target) == 0.0


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
def test_an_expected_win_rate_outside_the_open_interval_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        signed_mismatch(0.5, target)
