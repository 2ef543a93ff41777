"""The laws of offsets, over every way to fit them and both win rates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charm_rm.core.categories import solve_category_offsets
from charm_rm.core.elo import expected_win_rate
from charm_rm.core.intervals import resample_counts
from charm_rm.core.joint import solve_joint_offsets
from charm_rm.core.joint_bootstrap import solve_resampled_joint_hard_offsets
from charm_rm.core.offsets import reach_win_rate
from charm_rm.core.uncertainty import (
    Codes,
    joint_offset_standard_errors,
    offset_standard_error,
)
from charm_rm.core.win_rates import Floats, WinRateKind, hard_win_rate, win_rate_matrix, wins

FITS = ("one offset", "by category, plain", "by category, shrunk", "joint")
CODES = np.arange(120) % 3

kinds = st.sampled_from(["sigmoid", "hard"])
fits = st.sampled_from(FITS)
seeds = st.integers(0, 10_000)
grids = st.sampled_from([0.0, 1.0])  # of the scores: none, or whole points with many ties


def draw(seed: int, *, grid: float = 0.0, n_prompts: int = 120) -> tuple[Floats, Floats]:
    """Scores of three policies with prompt effects and heavy tails, and their ratings."""
    rng = np.random.default_rng(seed)
    elo = 1100.0 + 80.0 * rng.standard_normal(3)
    scores = 4.0 * rng.normal(size=(n_prompts, 1)) + rng.normal(size=3)
    scores = scores + 1.5 * rng.standard_t(4, size=(n_prompts, 3))
    return (np.rint(scores) if grid else scores), elo


def solve(
    fit: str,
    kind: WinRateKind,
    scores: Floats,
    elo: Floats,
    *,
    codes: Codes = CODES,
    temperature: float = 1.0,
) -> Floats:
    """Offsets of policy 0 against policy 1: one, one per category; or of all policies jointly."""
    margins, target = scores[:, 0] - scores[:, 1], float(expected_win_rate(elo[0], elo[1]))
    if fit == "one offset":
        return np.array([reach_win_rate(margins, target, kind=kind, temperature=temperature)])
    if fit == "joint":
        return solve_joint_offsets(
            scores, elo, reference=1, kind=kind, temperature=temperature
        ).offsets
    found = solve_category_offsets(
        margins,
        target,
        categories=codes,
        kind=kind,
        temperature=temperature,
        shrink=fit.endswith("shrunk"),
    )
    return found.offsets


def close(found: Floats, expected: Floats, *, scale: float = 1.0) -> bool:
    return bool(np.allclose(found, expected, rtol=1e-7, atol=1e-7 * scale))


@given(fits, kinds, seeds, grids)
def test_swapping_the_models_negates_offsets(
    fit: str, kind: WinRateKind, seed: int, grid: float
) -> None:
    scores, elo = draw(seed, grid=grid)
    assert close(solve(fit, kind, -scores, -elo), -solve(fit, kind, scores, elo))


@given(fits, kinds, seeds, grids, st.integers(-50, 50))
def test_a_constant_added_to_the_scores_of_a_prompt_changes_nothing(
    fit: str, kind: WinRateKind, seed: int, grid: float, constant: int
) -> None:
    scores, elo = draw(seed, grid=grid)
    moved = scores + constant * (1.0 + np.arange(len(scores))[:, None] % 3)
    assert close(solve(fit, kind, moved, elo), solve(fit, kind, scores, elo))


@given(fits, kinds, seeds, grids, st.floats(0.01, 100.0))
def test_scaling_scores_and_temperature_together_scales_the_offsets(
    fit: str, kind: WinRateKind, seed: int, grid: float, scale: float
) -> None:
    scores, elo = draw(seed, grid=grid)
    scaled = solve(fit, kind, scale * scores, elo, temperature=scale)
    assert close(scaled, scale * solve(fit, kind, scores, elo), scale=scale)


@given(fits, kinds, seeds, grids)
def test_the_order_of_the_prompts_changes_nothing(
    fit: str, kind: WinRateKind, seed: int, grid: float
) -> None:
    scores, elo = draw(seed, grid=grid)
    order = np.random.default_rng(seed).permutation(len(scores))
    permuted = solve(fit, kind, scores[order], elo, codes=CODES[order])
    assert close(permuted, solve(fit, kind, scores, elo))


@given(fits, kinds, seeds, grids, st.permutations(range(3)))
def test_the_order_of_the_models_or_the_categories_changes_nothing(
    fit: str, kind: WinRateKind, seed: int, grid: float, order: list[int]
) -> None:
    scores, elo = draw(seed, grid=grid)
    found = solve(fit, kind, scores, elo)
    if fit == "joint":
        permuted = solve_joint_offsets(
            scores[:, order], elo[order], reference=order.index(1), kind=kind
        ).offsets
        assert close(permuted, found[order])
    elif fit != "one offset":
        renamed = solve(fit, kind, scores, elo, codes=np.argsort(order)[CODES])
        assert close(renamed, found[order])


@given(kinds, seeds, grids, st.floats(-20.0, 20.0))
def test_points_given_to_a_policy_are_taken_back(
    kind: WinRateKind, seed: int, grid: float, gift: float
) -> None:
    scores, elo = draw(seed, grid=grid)
    gifts = np.array([gift, 0.0, 0.0])
    for fit in FITS:
        wanted = gifts if fit == "joint" else gift
        found = solve(fit, kind, scores + gifts, elo)
        assert found == pytest.approx(solve(fit, kind, scores, elo) - wanted, rel=1e-6, abs=1e-6)


@given(st.sampled_from(FITS[:2]), kinds, seeds)
def test_the_win_rate_after_equals_the_target(fit: str, kind: WinRateKind, seed: int) -> None:
    scores, elo = draw(seed)
    offsets = solve(fit, kind, scores, elo)
    target = float(expected_win_rate(elo[0], elo[1]))
    for part, offset in enumerate(offsets):
        rows = part == CODES if fit != "one offset" else slice(None)
        margins = (scores[:, 0] - scores[:, 1])[rows]
        rate = wins(margins + offset, kind=kind).mean()
        allowed = 1e-10 if kind == "sigmoid" else 0.5 / margins.size + 1e-12
        assert abs(rate - target) <= allowed


@given(kinds, seeds, st.floats(900.0, 1300.0))
def test_of_two_policies_the_joint_win_rate_equals_the_target(
    kind: WinRateKind, seed: int, elo: float
) -> None:
    scores, _ = draw(seed)
    pair = scores[:, :2]
    found = solve_joint_offsets(pair, [elo, 1100.0], reference=1, kind=kind)
    rate = win_rate_matrix(pair + found.offsets, kind=kind)[0, 1]
    allowed = 1e-9 if kind == "sigmoid" else 0.5 / len(pair) + 1e-12
    assert abs(rate - float(expected_win_rate(elo, 1100.0))) <= allowed


@given(kinds, seeds, grids, st.booleans())
def test_one_category_is_the_global_fit(
    kind: WinRateKind, seed: int, grid: float, shrink: bool
) -> None:
    scores, elo = draw(seed, grid=grid)
    fit = "by category, shrunk" if shrink else "by category, plain"
    alone = solve(fit, kind, scores, elo, codes=np.zeros(len(scores), dtype=np.int64))
    assert alone.tolist() == solve("one offset", kind, scores, elo).tolist()


@given(seeds, st.integers(1, 60), st.integers(0, 59))
def test_a_target_half_way_between_two_steps_is_met_on_the_tie(
    seed: int, n_prompts: int, step: int
) -> None:
    margins = np.random.default_rng(seed).normal(size=n_prompts)
    target = (step % n_prompts + 0.5) / n_prompts
    offset = reach_win_rate(margins, target, kind="hard")
    assert hard_win_rate(margins + offset) == pytest.approx(target, abs=1e-12)
    assert reach_win_rate(-margins, 1.0 - target, kind="hard") == pytest.approx(-offset, abs=1e-12)


def error_of(fit: str, kind: WinRateKind, scores: Floats, elo: Floats) -> float:
    """Mean standard error of the offsets of a fit, in score points."""
    margins, target = scores[:, 0] - scores[:, 1], float(expected_win_rate(elo[0], elo[1]))
    codes = np.arange(len(scores)) % 3
    if fit == "one offset":
        return offset_standard_error(margins, target, kind=kind)
    if fit != "joint":
        found = solve_category_offsets(
            margins, target, categories=codes, kind=kind, shrink=fit.endswith("shrunk")
        )
        return float(found.standard_errors.mean())
    joint = solve_joint_offsets(scores, elo, reference=1, kind=kind).offsets
    if kind == "sigmoid":
        errors = joint_offset_standard_errors(scores, elo, offsets=joint, reference=1)
    else:
        rng = np.random.default_rng(0)
        counts = np.concatenate(list(resample_counts(len(scores), n_resamples=60, rng=rng)))
        errors = solve_resampled_joint_hard_offsets(
            scores,
            counts,
            elo=np.tile(elo, (60, 1)),
            elo_centre=elo,
            offsets=joint,
            reference=1,
        ).std(axis=0)
    return float(errors[[0, 2]].mean())


@settings(max_examples=20)
@given(fits, kinds, st.integers(0, 200))
def test_more_prompts_never_widen_the_interval_systematically(
    fit: str, kind: WinRateKind, seed: int
) -> None:
    # one more prompt may widen one interval; four times the prompts narrow the mean of five
    few, many = [], []
    for number in range(5):
        scores, elo = draw(1000 * seed + number, n_prompts=480)
        few.append(error_of(fit, kind, scores[:120], elo))
        many.append(error_of(fit, kind, scores, elo))
    assert np.mean(many) < 0.75 * np.mean(few)
