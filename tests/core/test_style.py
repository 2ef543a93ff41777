"""Preference ratios and style spread: by hand, by laws, by slow twins."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from charm_rm.core.style import mean_ratios, preference_ratios, ratio_changes, style_spreads
from charm_rm.core.win_rates import Floats


def sides(both: int, ours: int, theirs: int, neither: int) -> tuple[Floats, Floats]:
    """Pairs with the pattern on both sides, on one, on the other, on none."""
    counts = [both, ours, theirs, neither]
    chosen = np.repeat([1.0, 1.0, 0.0, 0.0], counts)[:, None]
    return chosen, np.repeat([1.0, 0.0, 1.0, 0.0], counts)[:, None]


cells = st.tuples(*[st.integers(0, 30)] * 4).filter(lambda four: sum(four) > 1)


def bonett_price(both: int, ours: int, theirs: int) -> tuple[float, float]:
    """The interval as its authors write it, one number at a time."""
    n, x, y = both + ours + theirs, both + ours, both + theirs
    z = float(ndtri(0.975))
    a = ((ours + theirs + 2) / ((x + 1) * (y + 1))) ** 0.5
    b = ((1 - (x + 1) / (n + 2)) / (x + 1)) ** 0.5
    c = ((1 - (y + 1) / (n + 2)) / (y + 1)) ** 0.5
    k = z * a / (b + c)

    def wilson(count: int, sign: int) -> float:
        root = float((k**2 + 4 * count * (1 - count / n)) ** 0.5)
        return float((2 * count + k**2 + sign * k * root) / (2 * (n + k**2)))

    lower = wilson(x, -1) / wilson(y, 1) if x else 0.0
    return lower, wilson(x, 1) / wilson(y, -1) if y else np.inf


@given(cells.filter(lambda four: sum(four[:3]) > 0))
def test_the_interval_is_that_of_bonett_and_price(four: tuple[int, int, int, int]) -> None:
    found = preference_ratios(*sides(*four))
    low, high = bonett_price(*four[:3])
    assert found.low[0] == pytest.approx(low, rel=1e-9, abs=1e-12)
    assert found.high[0] == pytest.approx(high, rel=1e-9)


@given(cells)
def test_exchanging_the_sides_inverts_the_ratio_and_its_interval(four: Any) -> None:
    chosen, rejected = sides(*four)
    one, other = preference_ratios(chosen, rejected), preference_ratios(rejected, chosen)
    with np.errstate(divide="ignore"):
        assert 1 / one.low[0] == pytest.approx(other.high[0])
        assert 1 / one.high[0] == pytest.approx(other.low[0])
    if chosen.sum() and rejected.sum():
        assert one.value[0] == pytest.approx(1 / other.value[0])
        assert one.low[0] <= one.value[0] <= one.high[0]


@given(cells, st.integers(0, 2**32 - 1))
def test_the_order_of_pairs_and_pairs_without_the_pattern_change_nothing(
    four: Any, seed: int
) -> None:
    chosen, rejected = sides(*four)
    order = np.random.default_rng(seed).permutation(len(chosen))
    more = [np.append(side[order], np.zeros((7, 1)), axis=0) for side in (chosen, rejected)]
    one, other = preference_ratios(chosen, rejected), preference_ratios(more[0], more[1])
    np.testing.assert_allclose([one.low, one.high], [other.low, other.high], rtol=1e-12)


def test_ratios_where_a_side_has_none() -> None:
    only = preference_ratios(*sides(0, 5, 0, 5))
    assert only.value[0] == np.inf
    assert only.low[0] > 1.0
    assert only.high[0] == np.inf
    never = preference_ratios(*sides(0, 0, 5, 5))
    assert (never.value[0], never.low[0]) == (0.0, 0.0)
    assert never.high[0] < 1.0
    nowhere = preference_ratios(*sides(0, 0, 0, 5))
    assert np.isnan(nowhere.value[0])
    assert (nowhere.low[0], nowhere.high[0]) == (0.0, np.inf)


def test_pairs_that_repeat_a_prompt_count_as_fewer() -> None:
    chosen, rejected = sides(5, 20, 10, 15)
    again = np.repeat(np.arange(50), 4)
    four_times = np.repeat(chosen, 4, axis=0), np.repeat(rejected, 4, axis=0)
    once = preference_ratios(chosen, rejected)
    naive = preference_ratios(*four_times)
    careful = preference_ratios(*four_times, prompts=again)
    widths = [float(np.log(found.high / found.low)[0]) for found in (once, naive, careful)]
    assert widths[1] < 0.6 * widths[0]
    assert widths[2] == pytest.approx(widths[0], rel=0.1)


def test_a_ratio_of_means_by_hand() -> None:
    # e = c / 60 - r / 30 = (1/6, -1/6, 0); se^2 = 3/2 (2/36); t of 2 degrees of freedom
    found = mean_ratios([[30.0], [10.0], [20.0]], [[10.0], [10.0], [10.0]])
    reach = 4.302652729911275 * np.sqrt(1.5 * 2 / 36)
    assert found.value[0] == 2.0
    assert np.log(found.high[0] / 2.0) == pytest.approx(reach)
    assert np.log(found.low[0] / 2.0) == pytest.approx(-reach)


def test_a_change_of_the_same_pairs_is_none_and_is_surely_none() -> None:
    pairs = sides(5, 20, 10, 15)
    codes = np.arange(50)
    found = ratio_changes(pairs, pairs, prompts=(codes, codes))
    assert (found.value[0], found.low[0], found.high[0]) == (1.0, 1.0, 1.0)


@given(cells)
def test_a_change_is_the_quotient_of_the_ratios_and_turns_round_with_them(four: Any) -> None:
    before, after = sides(*four), sides(*four)[::-1]
    codes = np.arange(len(before[0]))
    found = ratio_changes(before, after, prompts=(codes, codes))
    back = ratio_changes(after, before, prompts=(codes, codes))
    if before[0].sum() and before[1].sum():
        ratio = preference_ratios(*before).value[0]
        assert found.value[0] == pytest.approx(ratio**-2)
        assert found.low[0] == pytest.approx(1 / back.high[0])
    else:
        assert (found.low[0], found.high[0]) == (0.0, np.inf)


def test_prompts_of_two_sets_are_told_by_their_codes_not_their_rows() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random((80, 1)) < 0.5, rng.random((80, 1)) < 0.3)
    codes, order = np.arange(80), rng.permutation(80)
    after = (before[0][order], before[1][order])
    found = ratio_changes(before, after, prompts=(codes, order))
    assert found.low[0] == pytest.approx(found.high[0])


@pytest.mark.parametrize("shapes", [((3, 1), (4, 1)), ((3,), (3,)), ((0, 1), (0, 1))])
def test_sides_that_do_not_belong_together_are_refused(shapes: Any) -> None:
    one, other = np.ones(shapes[0]), np.ones(shapes[1])
    with pytest.raises(ValueError, match="two tables of counts of one shape"):
        preference_ratios(one, other)
    with pytest.raises(ValueError, match="two tables of counts of one shape"):
        mean_ratios(one, other)


def test_bad_levels_and_single_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="level must lie"):
        preference_ratios(*sides(1, 1, 1, 1), level=1.0)
    with pytest.raises(ValueError, match="at least two prompts"):
        mean_ratios([[1.0]], [[2.0]])
    with pytest.raises(ValueError, match="level must lie"):
        style_spreads(np.zeros((2, 2, 3)), level=0.0)


def test_the_spread_by_hand() -> None:
    # All scores: 1 2 3 0 0 0 twice; mean 1, variance 8/6; z-means of chosen (0, 1, 2) / sd.
    item = [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    found = style_spreads([item, item])
    assert found.means[0] == pytest.approx(np.array([0.0, 1.0, 2.0]) / np.sqrt(8 / 6))
    assert found.value == pytest.approx([2 / 3 / (8 / 6), 0.0])
    assert found.low == pytest.approx(found.value)  # nothing varies between items
    assert found.high == pytest.approx(found.value)


def draw_items(n: int, *, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    effect = np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])
    return np.asarray(rng.normal(size=(n, 1, 1)) + effect + rng.normal(size=(n, 2, 3)))


def test_the_spread_equals_a_loop() -> None:
    scores = draw_items(40)
    flat = [float(score) for score in scores.ravel()]
    mean = sum(flat) / len(flat)
    sd = (sum((score - mean) ** 2 for score in flat) / len(flat)) ** 0.5
    for side in (0, 1):
        means = [
            sum((float(item[side][style]) - mean) / sd for item in scores) / len(scores)
            for style in range(3)
        ]
        middle = sum(means) / 3
        variance = sum((one - middle) ** 2 for one in means) / 3
        assert style_spreads(scores).value[side] == pytest.approx(variance)


@given(st.floats(0.01, 100.0), st.floats(-50.0, 50.0), st.permutations(range(3)))
def test_scale_shift_and_names_of_styles_do_not_matter(
    scale: float, shift: float, order: list[int]
) -> None:
    scores = draw_items(30)
    one, other = style_spreads(scores), style_spreads(scale * scores[:, :, order] + shift)
    np.testing.assert_allclose(other.means, one.means[:, order], rtol=1e-7, atol=1e-9)
    for field in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(other, field), getattr(one, field), rtol=1e-6, atol=1e-9)


def test_the_error_of_the_means_agrees_with_the_bootstrap() -> None:
    scores = draw_items(300)
    rng = np.random.default_rng(1)
    drawn = [style_spreads(scores[rng.integers(0, 300, 300)]).value[0] for _ in range(400)]
    found = style_spreads(scores)
    assert found.high[0] - found.low[0] == pytest.approx(4 * np.std(drawn), rel=0.2)


def test_no_style_effect_reaches_down_to_zero() -> None:
    rng = np.random.default_rng(0)
    lows = [style_spreads(rng.normal(size=(60, 2, 3))).low for _ in range(40)]
    assert np.mean(np.array(lows) == 0.0) > 0.9


def test_groups_of_fixed_size_take_their_differences_out() -> None:
    scores = draw_items(60)
    groups = np.repeat([0, 1], 30)
    scores[groups == 1, 0, 2] += 3.0  # markdown does well in one group
    apart = style_spreads(scores, groups=groups)
    together = style_spreads(scores)
    assert apart.value == pytest.approx(together.value)
    assert apart.high[0] - apart.low[0] < together.high[0] - together.low[0]
    alone = style_spreads(scores[:31], groups=groups[:31])
    assert np.isnan(alone.low).all()
    assert np.isnan(alone.high).all()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.ones((4, 3, 3)), "shape"),
        (np.ones((0, 2, 3)), "shape"),
        (np.full((4, 2, 3), np.nan), "finite"),
        (np.ones((4, 2, 3)), "all scores are equal"),
    ],
)
def test_scores_without_a_spread_are_refused(scores: Floats, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        style_spreads(scores)
