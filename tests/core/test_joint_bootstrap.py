"""Joint hard offsets of resamples: against one fit at a time, and the laws of the fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.core.elo import expected_win_rate
from charm_rm.core.intervals import resample_counts
from charm_rm.core.joint import solve_joint_offsets
from charm_rm.core.joint_bootstrap import solve_resampled_joint_hard_offsets
from charm_rm.core.offsets import solve_resampled_hard_offsets
from charm_rm.core.win_rates import Floats


def draw(
    n_policies: int, n_prompts: int, *, missing: float = 0.0, grid: float = 0.0, seed: int = 0
) -> tuple[Floats, Floats]:
    """Heavy-tailed scores with prompt effects, and ratings."""
    rng = np.random.default_rng(seed)
    elo = 1100.0 + 80.0 * rng.standard_normal(n_policies)
    scores = 4.0 * rng.normal(size=(n_prompts, 1)) + rng.normal(size=n_policies)
    scores = scores + 2.0 * rng.standard_t(4, size=(n_prompts, n_policies))
    if grid:
        scores = np.rint(scores / grid) * grid
    scores[rng.random(scores.shape) < missing] = np.nan
    return scores, elo


def counts_of(n_prompts: int, n_resamples: int) -> Floats:
    rng = np.random.default_rng(1)
    return np.concatenate(list(resample_counts(n_prompts, n_resamples=n_resamples, rng=rng)))


def resample(
    scores: Floats, elo: Floats, counts: Floats, *, reference: int = 0, drawn: Floats | None = None
) -> Floats:
    hard = solve_joint_offsets(scores, elo, reference=reference, kind="hard")
    return solve_resampled_joint_hard_offsets(
        scores,
        counts,
        elo=np.tile(elo, (len(counts), 1)) if drawn is None else drawn,
        elo_centre=elo,
        offsets=hard.offsets,
        reference=reference,
    )


def test_two_policies_get_the_resampled_offsets_of_their_pair() -> None:
    scores, elo = draw(2, 200)
    counts = counts_of(200, 300)
    found = resample(scores, elo, counts, reference=1)[:, 0]
    targets = np.full(300, float(expected_win_rate(elo[0], elo[1])))
    exact = solve_resampled_hard_offsets(scores[:, 0] - scores[:, 1], counts, targets=targets)
    assert found.std() == pytest.approx(exact.std(), rel=0.1)
    assert np.corrcoef(found, exact)[0, 1] > 0.95


@pytest.mark.parametrize(("missing", "grid"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.25)])
def test_the_spread_is_that_of_one_fit_per_resample(missing: float, grid: float) -> None:
    scores, elo = draw(4, 150, missing=missing, grid=grid)
    counts = counts_of(150, 150)
    found = resample(scores, elo, counts)
    refitted = [
        solve_joint_offsets(
            np.repeat(scores, row.astype(int), axis=0), elo, reference=0, kind="hard"
        ).offsets
        for row in counts
    ]
    assert found.std(axis=0)[1:] == pytest.approx(np.std(refitted, axis=0)[1:], rel=0.15)


def test_a_resample_that_is_the_sample_gets_the_offsets_of_the_sample() -> None:
    scores, elo = draw(5, 80, missing=0.1)
    found = resample(scores, elo, np.ones((2, 80)), reference=3)
    hard = solve_joint_offsets(scores, elo, reference=3, kind="hard")
    assert found == pytest.approx(np.stack([hard.offsets] * 2))


def test_uncertain_ratings_widen_the_spread() -> None:
    scores, elo = draw(4, 400)
    counts = counts_of(400, 300)
    drawn = elo + 40.0 * np.random.default_rng(2).normal(size=(300, 4))
    exact, unsure = resample(scores, elo, counts), resample(scores, elo, counts, drawn=drawn)
    assert (unsure.std(axis=0)[1:] > 1.3 * exact.std(axis=0)[1:]).all()


def test_the_result_does_not_depend_on_the_size_of_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, elo = draw(4, 60, missing=0.2)
    counts = counts_of(60, 20)
    whole = resample(scores, elo, counts)
    monkeypatch.setattr("charm_rm.core.joint_bootstrap.MEMORY", 1)
    assert resample(scores, elo, counts) == pytest.approx(whole)


@given(st.integers(0, 50), st.sampled_from(["shift", "scale", "reference", "permute"]))
def test_the_laws_of_joint_offsets_hold_for_their_resamples(seed: int, law: str) -> None:
    scores, elo = draw(3, 50, seed=seed)
    counts = counts_of(50, 10)
    found = resample(scores, elo, counts)
    rng = np.random.default_rng(seed)
    changed, expected = found, found
    if law == "shift":
        changed = resample(scores + 10.0 * rng.normal(size=(50, 1)), elo, counts)
    elif law == "scale":
        changed, expected = resample(7.0 * scores, elo, counts), 7.0 * found
    elif law == "reference":
        changed, expected = resample(scores, elo, counts, reference=2), found - found[:, [2]]
    else:
        order = rng.permutation(50)
        changed = resample(scores[order], elo, counts[:, order])
    assert changed == pytest.approx(expected, rel=1e-3, abs=1e-3)
