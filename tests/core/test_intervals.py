"""The paired bootstrap: its draws, its means, and its agreement with theory."""

import numpy as np
import pytest

from charm_rm.core import intervals
from charm_rm.core.intervals import percentile_interval, resample_counts, resampled_means


def test_every_resample_draws_as_many_prompts_as_there_are() -> None:
    blocks = list(resample_counts(17, n_resamples=50, rng=np.random.default_rng(0)))
    counts = np.concatenate(blocks)
    assert counts.shape == (50, 17)
    assert (counts.sum(axis=1) == 17).all()


def test_the_draws_do_not_depend_on_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resample_counts(10, n_resamples=9, rng=np.random.default_rng(3))))
    monkeypatch.setattr(intervals, "BLOCK", 20)
    blocks = list(resample_counts(10, n_resamples=9, rng=np.random.default_rng(3)))
    assert len(blocks) == 5
    assert (np.concatenate(blocks) == whole).all()


def test_resampled_means_equal_the_means_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 3))
    values[2, 1] = np.nan
    counts = rng.integers(0, 3, size=(8, 12)).astype(np.float64)
    means = resampled_means(values, counts)
    for row, found in zip(counts, means, strict=True):
        drawn = np.repeat(values, row.astype(int), axis=0)
        assert found == pytest.approx(np.nanmean(drawn, axis=0))


def test_a_resample_without_any_value_has_no_mean() -> None:
    assert np.isnan(resampled_means(np.array([[np.nan], [1.0]]), np.array([[2.0, 0.0]]))).all()


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 1))
    counts = np.concatenate(list(resample_counts(400, n_resamples=4000, rng=rng)))
    low, high = percentile_interval(resampled_means(values, counts))
    width = float(high[0] - low[0])
    assert width == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_the_open_interval_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level must lie"):
        percentile_interval(np.arange(3.0), level=level)


@pytest.mark.parametrize(("n_prompts", "n_resamples"), [(0, 10), (10, 0)])
def test_nothing_to_resample_is_refused(n_prompts: int, n_resamples: int) -> None:
    with pytest.raises(ValueError, match="at least one prompt and one resample"):
        next(resample_counts(n_prompts, n_resamples=n_resamples, rng=np.random.default_rng(0)))
