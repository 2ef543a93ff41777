"""Joint offsets: one pair's root, derivatives by finite differences, brute force, and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq, minimize
from scipy.special import expit

from charm_rm.core.elo import expected_win_rate
from charm_rm.core.joint import JointOffsets, solve_joint_offsets
from charm_rm.core.joint_fit import (
    JointProblem,
    fit_offsets,
    joint_moments,
    pose_problem,
    shared_groups,
    squared_error,
)
from charm_rm.core.laplacian import grounded_inverse, laplacian
from charm_rm.core.offsets import solve_hard_offset, solve_offset
from charm_rm.core.win_rates import Floats, hard_win_rate, sigmoid_win_rate, win_rate_matrix

seeds = st.integers(0, 10_000)


def draw_scores(
    seed: int, n_policies: int = 5, n_prompts: int = 60, missing: float = 0.0
) -> tuple[Floats, Floats]:
    """Heavy-tailed scores with prompt effects and a shift per policy, and ratings."""
    rng = np.random.default_rng(seed)
    elo = 1100.0 + 80.0 * rng.standard_normal(n_policies)
    scores = 4.0 * rng.normal(size=(n_prompts, 1)) + 2.0 * rng.normal(size=n_policies)
    scores = scores + 2.0 * rng.standard_t(4, size=(n_prompts, n_policies))
    scores[rng.random(scores.shape) < missing] = np.nan
    return scores, elo


def plain_loss(scores: Floats, elo: Floats, offsets: Floats) -> float:
    """What `squared_error` computes, as A.6 is read: two loops over pairs."""
    squares = []
    for i in range(len(elo)):
        for j in range(len(elo)):
            margins = scores[:, i] + offsets[i] - scores[:, j] - offsets[j]
            margins = margins[np.isfinite(margins)]
            if i != j and margins.size:
                rate = np.mean(1.0 / (1.0 + np.exp(-margins)))
                squares.append((rate - 1.0 / (1.0 + 10.0 ** ((elo[j] - elo[i]) / 400.0))) ** 2)
    return float(np.mean(squares))


def solve(scores: Floats, elo: Floats, reference: int = 0) -> JointOffsets:
    joint = solve_joint_offsets(scores, elo, reference=reference)
    assert joint.converged
    assert joint.gradient_norm <= 1e-12
    assert joint.offsets[reference] == 0.0
    return joint


@given(seeds, st.integers(10, 200), st.floats(900, 1300))
def test_two_policies_get_the_root_of_their_pair(seed: int, n_prompts: int, elo: float) -> None:
    scores, _ = draw_scores(seed, 2, n_prompts, missing=0.1)
    margins = scores[:, 0] - scores[:, 1]
    root = solve_offset(margins[np.isfinite(margins)], float(expected_win_rate(elo, 1100.0)))
    joint = solve(scores, np.array([elo, 1100.0]), reference=1)
    assert joint.offsets[0] == pytest.approx(root, abs=1e-9)
    assert joint.rmse <= 1e-10


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-300, 300)), st.floats(700, 1500))
def test_two_policies_meet_their_target_whatever_the_margins(margins: Floats, elo: float) -> None:
    scores = np.stack([margins, np.zeros_like(margins)], axis=1)
    joint = solve_joint_offsets(scores, [elo, 1100.0], reference=1)
    target = float(expected_win_rate(elo, 1100.0))
    found = sigmoid_win_rate(margins + joint.offsets[0])
    assert found == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_loss_equals_two_loops_over_pairs(missing: float) -> None:
    scores, elo = draw_scores(0, missing=missing)
    offsets = np.array([0.5, -1.0, 0.0, 2.0, -1.5])
    error = squared_error(pose_problem(scores, elo), offsets=offsets)
    assert error.value == pytest.approx(plain_loss(scores, elo, offsets), rel=1e-12)


def differences(problem: JointProblem, offsets: Floats, of: str) -> Floats:
    """Central differences of a field of `squared_error`, one column per offset."""
    step = 1e-5
    columns = []
    for unit in np.eye(len(offsets)) * step:
        above = getattr(squared_error(problem, offsets=offsets + unit), of)
        below = getattr(squared_error(problem, offsets=offsets - unit), of)
        columns.append((above - below) / (2 * step))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_gradient_and_hessian_equal_finite_differences(missing: float) -> None:
    scores, elo = draw_scores(1, missing=missing)
    problem = pose_problem(scores, elo, temperature=2.0)
    offsets = np.array([0.5, -1.0, 0.0, 2.0, -1.5])
    error = squared_error(problem, offsets=offsets)
    assert error.gradient == pytest.approx(differences(problem, offsets, "value"), abs=1e-9)
    assert error.hessian == pytest.approx(differences(problem, offsets, "gradient"), abs=1e-9)


def test_residuals_are_antisymmetric_and_slopes_symmetric() -> None:
    scores, elo = draw_scores(2, missing=0.2)
    moments = joint_moments(pose_problem(scores, elo), offsets=np.zeros(5))
    assert (moments.residuals == -moments.residuals.T).all()
    assert (moments.slopes == moments.slopes.T).all()
    assert (moments.bends == -moments.bends.T).all()
    rates = win_rate_matrix(scores)
    assert moments.residuals == pytest.approx(rates - expected_win_rate(elo[:, None], elo))


def test_the_sums_do_not_depend_on_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, elo = draw_scores(3, missing=0.2)
    whole = joint_moments(pose_problem(scores, elo), offsets=elo / 100)
    monkeypatch.setattr("charm_rm.core.joint_fit.BLOCK", 100)
    parts = joint_moments(pose_problem(scores, elo), offsets=elo / 100)
    for one, other in zip(whole, parts, strict=True):
        assert other == pytest.approx(one, abs=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_no_start_of_a_general_optimiser_finds_less(seed: int) -> None:
    # far starts end in other, worse minima: these exist, and the convex start avoids them
    scores, elo = draw_scores(seed, 4, 40, missing=0.2)
    joint = solve(scores, elo)
    ends = []
    for start in np.random.default_rng(0).normal(scale=8.0, size=(6, 3)):
        found = minimize(
            lambda free: plain_loss(scores, elo, np.append(0.0, free)), start, method="BFGS"
        )
        ends.append(float(found.fun))
    assert joint.rmse**2 == pytest.approx(plain_loss(scores, elo, joint.offsets), rel=1e-9)
    assert joint.rmse**2 <= min(ends) + 1e-12
    assert joint.rmse**2 == pytest.approx(min(ends), rel=1e-4)


def test_the_result_keeps_the_matrices_it_speaks_of() -> None:
    scores, elo = draw_scores(4)
    joint = solve(scores, elo, reference=2)
    assert (joint.win_rates_before == win_rate_matrix(scores)).all()
    assert (joint.win_rates_after == win_rate_matrix(scores + joint.offsets)).all()
    assert joint.expected == pytest.approx(expected_win_rate(elo[:, None], elo))
    assert (joint.residuals == joint.win_rates_after - joint.expected).all()
    off_diagonal = joint.residuals[~np.eye(5, dtype=bool)]
    assert joint.rmse == pytest.approx(np.sqrt(np.mean(off_diagonal**2)))
    assert joint.rmse < joint.rmse_before


@given(seeds, st.integers(0, 4))
def test_the_choice_of_the_reference_only_shifts_the_offsets(seed: int, reference: int) -> None:
    scores, elo = draw_scores(seed, missing=0.1)
    one, other = solve(scores, elo), solve(scores, elo, reference)
    assert other.offsets == pytest.approx(one.offsets - one.offsets[reference], abs=1e-8)


@given(seeds)
def test_permuting_policies_permutes_the_offsets(seed: int) -> None:
    scores, elo = draw_scores(seed, missing=0.1)
    order = np.random.default_rng(seed).permutation(5)
    permuted = solve(scores[:, order], elo[order], int(np.argmin(order)))
    assert permuted.offsets == pytest.approx(solve(scores, elo).offsets[order], abs=1e-8)


@given(seeds)
def test_permuting_prompts_changes_nothing(seed: int) -> None:
    scores, elo = draw_scores(seed, missing=0.1)
    permuted = np.random.default_rng(seed).permutation(scores)
    assert solve(permuted, elo).offsets == pytest.approx(solve(scores, elo).offsets, abs=1e-8)


@given(seeds, st.floats(-50, 50))
def test_a_constant_added_to_all_scores_of_a_prompt_changes_nothing(
    seed: int, constant: float
) -> None:
    scores, elo = draw_scores(seed)
    moved = scores + constant * np.arange(len(scores))[:, None]
    assert solve(moved, elo).offsets == pytest.approx(solve(scores, elo).offsets, abs=1e-8)


@given(seeds, st.floats(0.01, 100))
def test_scaling_scores_and_temperature_scales_the_offsets(seed: int, scale: float) -> None:
    scores, elo = draw_scores(seed)
    scaled = solve_joint_offsets(scores * scale, elo, reference=0, temperature=scale)
    assert scaled.offsets == pytest.approx(scale * solve(scores, elo).offsets, abs=1e-8 * scale)
    assert scaled.gradient_norm <= 1e-12


@given(seeds)
def test_scores_and_ratings_turned_round_negate_the_offsets(seed: int) -> None:
    scores, elo = draw_scores(seed, missing=0.1)
    assert solve(-scores, -elo).offsets == pytest.approx(-solve(scores, elo).offsets, abs=1e-8)


@given(seeds, st.floats(-10, 10))
def test_points_given_to_one_policy_are_taken_back(seed: int, gift: float) -> None:
    scores, elo = draw_scores(seed)
    gifts = np.array([0.0, gift, 0.0, 0.0, 0.0])
    after = solve(scores + gifts, elo)
    assert after.offsets == pytest.approx(solve(scores, elo).offsets - gifts, abs=1e-8)


@pytest.mark.parametrize("scale", [0.01, 10.0, 100.0])
def test_narrow_and_wide_scores_converge_too(scale: float) -> None:
    scores, elo = draw_scores(5, missing=0.3)
    assert solve(scale * scores, elo).rmse < 0.1


@pytest.mark.parametrize("gap", [2000.0, 3000.0, 3500.0, 4000.0])
def test_a_policy_far_below_the_others_is_solved_too(gap: float) -> None:
    elo = np.array([1000.0, 1010.0, 1000.0 - gap])
    rng = np.random.default_rng(3)
    scores = 2.0 * rng.normal(size=(80, 1)) + 1.5 * rng.normal(size=(80, 3))
    offsets = solve(scores, elo).offsets
    expected = expected_win_rate(elo[2], elo[:2])

    def slope_of_loss(offset: float) -> float:  # as a share of what the first rate expects
        lost = expit(scores[:, [2]] + offset - scores[:, :2] - offsets[:2])
        slopes = (lost * (1.0 - lost)).mean(axis=0)
        return float(((lost.mean(axis=0) - expected) * slopes).sum() / expected[0] ** 2)

    root = brentq(slope_of_loss, offsets[2] - 2.0, offsets[2] + 2.0)
    assert offsets[2] == pytest.approx(root, abs=1e-4)


@pytest.mark.parametrize("ground", [0, 2])
def test_the_grounded_inverse_is_that_of_the_struck_matrix(ground: int) -> None:
    weights = np.array([[0.0, 2.0, 0.5], [2.0, 0.0, -0.1], [0.5, -0.1, 0.0]])
    found = grounded_inverse(laplacian(weights), ground=ground)
    rest = np.setdiff1d(np.arange(3), ground)
    struck = laplacian(weights)[np.ix_(rest, rest)]
    np.testing.assert_allclose(found[np.ix_(rest, rest)], np.linalg.inv(struck), rtol=1e-12)
    assert not found[ground].any()
    assert not found[:, ground].any()


def test_a_node_without_edges_has_no_grounded_inverse() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        grounded_inverse(np.zeros((2, 2)), ground=0)


def test_policies_linked_only_through_others_are_solved() -> None:
    scores, elo = draw_scores(6, 3, 80)
    scores[:40, 0] = np.nan
    scores[40:, 2] = np.nan
    joint = solve(scores, elo, reference=1)
    assert np.isnan(joint.residuals[0, 2])
    assert np.isnan(joint.win_rates_before[2, 0])
    assert joint.rmse <= 1e-10  # a tree of pairs: as many offsets as targets
    for policy in (0, 2):
        margins = scores[:, policy] - scores[:, 1]
        target = float(expected_win_rate(elo[policy], elo[1]))
        root = solve_offset(margins[np.isfinite(margins)], target)
        assert joint.offsets[policy] == pytest.approx(root, abs=1e-9)


def test_a_pair_that_shares_too_little_is_left_out() -> None:
    scores, elo = draw_scores(7, 3, 80)
    scores[:38, 0] = np.nan
    scores[40:, 2] = np.nan
    scored = solve_joint_offsets(scores, elo, reference=1, min_shared=3)
    assert np.isnan(scored.residuals[0, 2])
    assert scored.residuals[1, 1] == 0.0
    assert np.isfinite(solve(scores, elo).residuals).all()


def test_groups_without_shared_prompts_are_refused_by_name() -> None:
    scores, elo = draw_scores(8, 4, 20)
    scores[:10, [0, 3]] = np.nan
    scores[10:, [1, 2]] = np.nan
    assert shared_groups(scores) == [[0, 3], [1, 2]]
    with pytest.raises(ValueError, match=r"policies \[0, 3\] and \[1, 2\] share fewer than 1"):
        solve_joint_offsets(scores, elo, reference=0)


@given(seeds, st.floats(900, 1300))
def test_two_policies_get_the_hard_offset_of_their_pair(seed: int, elo: float) -> None:
    scores, _ = draw_scores(seed, 2, 41)
    joint = solve_joint_offsets(scores, [elo, 1100.0], reference=1, kind="hard")
    target = float(expected_win_rate(elo, 1100.0))
    root = solve_hard_offset(scores[:, 0] - scores[:, 1], target)
    margins = scores[:, 0] - scores[:, 1]
    assert hard_win_rate(margins + joint.offsets[0]) == hard_win_rate(margins + root)
    assert joint.offsets[0] == pytest.approx(root)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_moving_one_policy_does_not_better_a_hard_fit(missing: float) -> None:
    scores, elo = draw_scores(9, 4, 30, missing)
    joint = solve_joint_offsets(scores, elo, reference=0, kind="hard")
    assert joint.converged
    assert np.isnan(joint.gradient_norm)
    assert joint.rmse < joint.rmse_before

    def loss(offsets: Floats) -> float:
        rates = win_rate_matrix(scores + offsets, kind="hard")
        return float(np.sqrt(np.mean((rates - joint.expected)[~np.eye(4, dtype=bool)] ** 2)))

    assert joint.rmse == pytest.approx(loss(joint.offsets))
    for policy in range(4):
        for move in np.linspace(-6, 6, 241):
            tried = joint.offsets + move * np.eye(4)[policy]
            assert loss(tried) >= joint.rmse - 2e-5


@pytest.mark.parametrize("grid", [0.3, 1.0])
def test_scores_on_a_grid_stop_on_ties_where_no_gap_is_as_good(grid: float) -> None:
    """Every step of every policy along the grid and half of it is tried by hand."""
    rng = np.random.default_rng(2)
    scores = grid * np.round(rng.normal([0.0, 1.0, 0.5, -0.5], 1.5, (120, 4)))
    scores[rng.random(scores.shape) < 0.1] = np.nan
    elo = [1200.0, 1230.0, 1180.0, 1100.0]
    joint = solve_joint_offsets(scores, elo, reference=0, kind="hard")

    def squared(offsets: Floats) -> float:
        return float(((win_rate_matrix(scores + offsets, kind="hard") - joint.expected) ** 2).sum())

    least = squared(joint.offsets)
    assert least == pytest.approx(12 * joint.rmse**2)
    moves = [grid * step / 2 * np.eye(4)[at] for at in range(4) for step in range(-6, 7)]
    assert min(squared(joint.offsets + move) for move in moves) >= least - 1e-9
    moved = (scores + joint.offsets) / grid
    assert any((np.abs(moved[:, at] - moved[:, 3]) < 1e-9).any() for at in range(3))  # ties


@pytest.mark.parametrize("seed", range(5))
def test_two_policies_on_a_grid_come_as_near_as_their_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal([0.5, 0.0], 1.2, (60, 2)))
    joint = solve_joint_offsets(scores, [1030.0 + 40 * seed, 1100.0], reference=1, kind="hard")
    margins, target = scores[:, 0] - scores[:, 1], float(joint.expected[0, 1])
    near = abs(hard_win_rate(margins + solve_hard_offset(margins, target)) - target)
    assert abs(hard_win_rate(margins + joint.offsets[0]) - target) == pytest.approx(near)


def test_hard_offsets_ignore_the_temperature_and_stretch_with_the_scores() -> None:
    scores, elo = draw_scores(10)
    one = solve_joint_offsets(scores, elo, reference=0, kind="hard")
    other = solve_joint_offsets(100 * scores, elo, reference=0, kind="hard", temperature=3.0)
    assert other.offsets == pytest.approx(100 * one.offsets)
    assert other.rmse == one.rmse


def test_a_fit_sums_to_zero_before_the_gauge() -> None:
    fit = fit_offsets(pose_problem(*draw_scores(11)))
    assert fit.offsets.sum() == pytest.approx(0.0, abs=1e-10)
    assert fit.gradient_norm <= 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": 3}, "reference must be the index of a policy, 0 to 2, got 3"),
        ({"reference": -1}, "got -1"),
        ({"kind": "median"}, "must be 'sigmoid' or 'hard', got 'median'"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    scores, elo = draw_scores(0, 3, 10)
    with pytest.raises(ValueError, match=message):
        solve_joint_offsets(scores, elo, **{"reference": 0, **change})  # type: ignore[arg-type]


def test_bad_scores_are_refused() -> None:
    scores, elo = draw_scores(0, 3, 10)
    with pytest.raises(ValueError, match="at least two policies"):
        solve_joint_offsets(scores[:, :1], elo[:1], reference=0)
    with pytest.raises(ValueError, match=r"shapes \(10, 3\) and \(2,\)"):
        solve_joint_offsets(scores, elo[:2], reference=0)
    with pytest.raises(ValueError, match="finite"):
        solve_joint_offsets(scores, [1000.0, np.nan, 1000.0], reference=0)
    scores[0, 0] = np.inf
    with pytest.raises(ValueError, match="finite"):
        solve_joint_offsets(scores, elo, reference=0)
