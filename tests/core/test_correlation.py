"""Correlations: the scipy twin, and rows that have none."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from charm_rm.core.correlation import correlation, resampled_correlation_interval


def test_correlations_are_those_of_scipy_ties_included() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 5, 24):
        values, others = rng.integers(0, 5, n) + np.arange(n) % 2, np.arange(n) // 2 * 1.0
        others[-1] += 1.0
        if np.ptp(values) == 0:
            continue
        assert correlation(values, others) == pytest.approx(pearsonr(values, others).statistic)
        ranked = correlation(values, others, ranks=True)
        assert ranked == pytest.approx(spearmanr(values, others).statistic)


def test_equal_values_have_no_correlation() -> None:
    assert correlation([1.0, 1.0], [1.0, 2.0]) is None
    assert correlation([1.0, 2.0], [1.0, 1.0], ranks=True) is None
    rows = np.array([[1.0, 2.0], [1.0, 1.0]])
    assert resampled_correlation_interval(rows, np.array([[1.0, 2.0]] * 2)) == (None, None)


def test_the_interval_holds_the_middle_of_the_resampled_correlations() -> None:
    rng = np.random.default_rng(1)
    values = np.arange(8.0) + rng.normal(size=(999, 8))
    others = np.tile(np.arange(8.0), (999, 1))
    each = sorted(pearsonr(one, other).statistic for one, other in zip(values, others, strict=True))
    low, high = resampled_correlation_interval(values, others)
    assert [low, high] == pytest.approx([each[24], each[974]])
