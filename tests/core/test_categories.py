"""Offsets by category: the one-category law, merging, shrinkage, and what it gains."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri, stdtrit

from charm_rm.core.categories import between_category_variance, solve_category_offsets
from charm_rm.core.offsets import solve_hard_offset, solve_offset
from charm_rm.core.uncertainty import Codes, offset_standard_error
from charm_rm.core.win_rates import Floats, WinRateKind

TARGET = 0.42
SIZES = np.array([400, 200, 100, 60, 40, 30])
CODES = np.repeat(np.arange(6), SIZES)

margins = arrays(np.float64, st.integers(2, 80), elements=st.floats(-30, 30, width=32))
targets = st.floats(0.01, 0.99)


def draw_margins(seed: int, spread: float) -> tuple[Floats, Floats]:
    """Margins whose categories differ by normal shifts, and these shifts."""
    rng = np.random.default_rng(seed)
    shifts = spread * rng.normal(size=6)
    return 2.0 + shifts[CODES] + 3.0 * rng.normal(size=CODES.size), shifts


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
@given(margins, targets, st.booleans())
def test_one_category_gets_exactly_the_global_root(
    kind: WinRateKind, values: Floats, target: float, shrink: bool
) -> None:
    codes = np.full(values.size, 3)
    found = solve_category_offsets(
        values, target, categories=codes, kind=kind, min_prompts=2, shrink=shrink
    )
    solve = solve_offset if kind == "sigmoid" else solve_hard_offset
    assert found.offsets.tolist() == [solve(values, target)]
    assert found.global_offset == found.offsets[0]
    assert found.standard_errors[0] == pytest.approx(found.global_error)
    assert found.group_of.tolist() == [-1, -1, -1, 0]


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_without_shrinkage_each_category_gets_its_own_root(kind: WinRateKind) -> None:
    values, _ = draw_margins(0, 1.0)
    found = solve_category_offsets(values, TARGET, categories=CODES, kind=kind, shrink=False)
    solve = solve_offset if kind == "sigmoid" else solve_hard_offset
    for category in range(6):
        own = values[category == CODES]
        assert found.offsets[category] == solve(own, TARGET)
        error = offset_standard_error(own, TARGET, kind=kind)
        assert found.standard_errors[category] == pytest.approx(error)
    assert found.win_rates_after == pytest.approx(TARGET, abs=0.02 if kind == "hard" else 1e-9)
    assert np.isnan(found.between_variance)
    assert (found.weights == 1.0).all()


def test_shrunk_offsets_lie_between_the_own_root_and_the_global_one() -> None:
    values, _ = draw_margins(1, 0.7)
    found = solve_category_offsets(values, TARGET, categories=CODES)
    ends = np.sort([found.own_offsets, np.full(6, found.global_offset)], axis=0)
    assert (ends[0] < found.offsets).all()
    assert (found.offsets < ends[1]).all()


def test_the_more_certain_a_category_the_less_it_is_drawn() -> None:
    values, _ = draw_margins(2, 0.7)
    found = solve_category_offsets(values, TARGET, categories=CODES)
    order = np.argsort(found.own_errors)
    assert (np.diff(found.weights[order]) < 0).all()
    variance = found.between_variance
    assert found.weights == pytest.approx(variance / (variance + found.own_errors**2))


def test_categories_that_do_not_differ_all_get_the_global_offset() -> None:
    values = np.tile(np.linspace(-3.0, 6.0, 50), 4)
    found = solve_category_offsets(values, TARGET, categories=np.repeat(np.arange(4), 50))
    assert found.between_variance == 0.0
    assert (found.offsets == found.global_offset).all()


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_shrinkage_lowers_the_error_against_planted_offsets(spread: float) -> None:
    plain, shrunk, covered = [], [], []
    quantiles = 2.0 + 3.0 * ndtri((np.arange(2000) + 0.5) / 2000)
    centre = solve_offset(quantiles, TARGET)  # of the population without shifts
    for seed in range(100):
        values, shifts = draw_margins(seed, spread)
        found = solve_category_offsets(values, TARGET, categories=CODES)
        plain.append(found.own_offsets - (centre - shifts))
        shrunk.append(found.offsets - (centre - shifts))
        covered.append(np.abs(shrunk[-1]) < 1.96 * found.standard_errors)
    assert np.mean(np.square(shrunk)) < np.mean(np.square(plain))
    assert np.mean(covered) > 0.9


def test_small_categories_share_one_group_and_are_named() -> None:
    values, _ = draw_margins(3, 1.0)
    found = solve_category_offsets(values, TARGET, categories=CODES, min_prompts=50, shrink=False)
    assert found.merged == (4, 5)
    assert found.group_of.tolist() == [0, 1, 2, 3, 4, 4]
    assert found.n_prompts.tolist() == [400, 200, 100, 60, 70]
    assert found.offsets[4] == solve_offset(values[CODES >= 4], TARGET)


def test_a_named_category_takes_in_the_small_ones() -> None:
    values, _ = draw_margins(3, 1.0)
    found = solve_category_offsets(
        values, TARGET, categories=CODES, min_prompts=50, others=1, shrink=False
    )
    assert found.merged == (4, 5)
    assert found.group_of.tolist() == [0, 3, 1, 2, 3, 3]
    assert found.n_prompts[-1] == 270


@pytest.mark.parametrize("shrink", [True, False])
def test_a_group_too_small_even_when_merged_takes_the_global_offset(shrink: bool) -> None:
    values, _ = draw_margins(4, 1.0)
    found = solve_category_offsets(values, TARGET, categories=CODES, min_prompts=35, shrink=shrink)
    assert found.merged == (5,)
    assert found.weights[-1] == 0.0
    assert np.isnan(found.own_errors[-1])
    assert found.offsets[-1] == found.global_offset
    between = between_category_variance(
        found.own_offsets, standard_errors=found.own_errors, centre=found.global_offset
    )
    error = np.sqrt(found.global_error**2 + between)
    assert found.standard_errors[-1] == pytest.approx(error)


def test_samples_count_once_per_prompt() -> None:
    values, _ = draw_margins(5, 1.0)
    once = solve_category_offsets(values, TARGET, categories=CODES)
    thrice = solve_category_offsets(
        np.repeat(values, 3),
        TARGET,
        categories=np.repeat(CODES, 3),
        prompts=np.repeat(np.arange(values.size), 3),
    )
    assert thrice.n_prompts.tolist() == once.n_prompts.tolist()
    assert thrice.offsets == pytest.approx(once.offsets)
    assert thrice.standard_errors == pytest.approx(once.standard_errors)


def test_an_uncertain_target_widens_every_interval_but_moves_no_offset() -> None:
    values, _ = draw_margins(6, 0.7)
    exact = solve_category_offsets(values, TARGET, categories=CODES)
    unsure = solve_category_offsets(values, TARGET, categories=CODES, target_error=0.05)
    assert (unsure.offsets == exact.offsets).all()
    assert (unsure.standard_errors > exact.standard_errors).all()
    whole = offset_standard_error(values, TARGET, target_error=0.05)
    assert unsure.global_error == pytest.approx(whole)


@given(st.integers(0, 1000), st.sampled_from(["negate", "scale", "shift", "permute", "relabel"]))
def test_the_laws_of_one_offset_hold_by_category(seed: int, law: str) -> None:
    values, _ = draw_margins(seed, 0.7)
    rng = np.random.default_rng(seed)
    found = solve_category_offsets(values, TARGET, categories=CODES)
    target, temperature, expected = TARGET, 1.0, found.offsets
    changed, codes = values, CODES
    if law == "negate":
        changed, target, expected = -values, 1 - TARGET, -expected
    elif law == "scale":
        changed, temperature, expected = 7.0 * values, 7.0, 7.0 * expected
    elif law == "shift":
        changed, expected = values - 3.0, expected + 3.0
    elif law == "permute":
        order = rng.permutation(values.size)
        changed, codes = values[order], CODES[order]
    else:
        labels = rng.permutation(6)
        codes, expected = labels[CODES], expected[np.argsort(labels)]
    again = solve_category_offsets(changed, target, categories=codes, temperature=temperature)
    assert again.offsets == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_rows_find_their_offset_through_their_group() -> None:
    values, _ = draw_margins(7, 1.0)
    found = solve_category_offsets(values, TARGET, categories=CODES, min_prompts=50)
    moved = values + found.offsets[found.group_of[CODES]]
    for group in range(5):
        rate = np.mean(1 / (1 + np.exp(-moved[found.group_of[CODES] == group])))
        assert found.win_rates_after[group] == pytest.approx(rate)


def test_the_variance_between_categories_solves_its_equation() -> None:
    offsets, errors = np.array([-2.0, 0.5, 1.0, 3.0]), np.array([0.3, 0.2, 0.9, 0.5])
    variance = between_category_variance(offsets, standard_errors=errors, centre=0.4)
    assert np.sum((offsets - 0.4) ** 2 / (errors**2 + variance)) == pytest.approx(3.0)


def test_equal_errors_give_the_sample_variance_less_their_own() -> None:
    offsets = np.array([-1.0, 0.0, 4.0])
    found = between_category_variance(
        offsets, standard_errors=np.full(3, 0.5), centre=float(offsets.mean())
    )
    assert found == pytest.approx(np.var(offsets, ddof=1) - 0.25)


@pytest.mark.parametrize("errors", [[1.0, np.nan, np.nan], [9.0, 9.0, 9.0]])
def test_nothing_to_tell_apart_has_no_variance(errors: list[float]) -> None:
    offsets = np.array([-1.0, 0.0, 4.0])
    found = between_category_variance(offsets, standard_errors=np.array(errors), centre=1.0)
    assert found == 0.0


def test_an_exact_category_keeps_its_root() -> None:
    values = np.concatenate([np.full(40, 3.0), np.linspace(-2.0, 2.0, 60)])
    found = solve_category_offsets(values, 0.5, categories=np.repeat([0, 1], [40, 60]))
    assert found.offsets[0] == pytest.approx(-3.0)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([0, 1]), "got 3 margins, 2 categories"),
        (np.array([0, -1, 0]), "integer codes from 0"),
        (np.array([0.0, 1.0, 1.0]), "integer codes from 0"),
    ],
)
def test_bad_categories_are_refused(codes: Codes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_category_offsets(np.array([1.0, 2.0, 3.0]), 0.5, categories=codes)


def test_bad_settings_are_refused() -> None:
    values, codes = np.array([1.0, 2.0, 3.0]), np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="min_prompts must be at least 2, got 1"):
        solve_category_offsets(values, 0.5, categories=codes, min_prompts=1)
    with pytest.raises(ValueError, match="target win rate"):
        solve_category_offsets(values, 1.0, categories=codes)
    with pytest.raises(ValueError, match="standard error is negative"):
        between_category_variance(values, standard_errors=-values, centre=0.0)
    with pytest.raises(ValueError, match="at least two prompts"):
        solve_category_offsets(values[:1], 0.5, categories=codes[:1])


def test_a_small_category_is_as_uncertain_as_categories_differ() -> None:
    """Of 200 categories of 10 prompts each, the interval holds the offset of all but a few."""
    rng = np.random.default_rng(0)
    n, codes, held = 5, np.repeat(np.arange(6), [*[100] * 5, 10]), 0
    for _ in range(200):
        means = rng.normal(0.0, 1.0, n + 1)
        margins = means[codes] + rng.normal(0.0, 1.0, codes.size)
        found = solve_category_offsets(margins, 0.5, categories=codes)
        group = found.group_of[n]
        assert found.offsets[group] == found.global_offset
        error = found.standard_errors[group]
        assert error == pytest.approx(np.hypot(found.global_error, found.between_variance**0.5))
        held += abs(found.offsets[group] + means[n]) <= stdtrit(n - 1, 0.975) * error
    assert held >= 0.92 * 200
