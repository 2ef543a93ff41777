"""Battles as counts: sums, sides, groups, style differences, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.core.battles import (
    bounded_groups,
    connected_groups,
    count_battles,
    style_differences,
)

battle = st.tuples(st.integers(0, 5), st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0])).map(
    lambda row: (row[0], (row[0] + row[1]) % 6, row[2])
)
battles = st.lists(battle, min_size=1, max_size=60)


def test_outcomes_of_a_pair_are_summed_whichever_side_a_model_is_on() -> None:
    counts = count_battles([2, 0, 2, 0], [0, 2, 0, 1], outcomes=[1, 1, 0.5, 0], n_models=3)
    assert counts.first.tolist() == [0, 0]
    assert counts.second.tolist() == [1, 2]
    assert counts.wins.tolist() == [0, 1]
    assert counts.ties.tolist() == [0, 1]
    assert counts.losses.tolist() == [1, 1]
    assert counts.points.tolist() == [0, 1.5]


@given(battles)
def test_no_battle_is_lost_and_exchanging_the_sides_changes_nothing(
    rows: list[tuple[int, int, float]],
) -> None:
    first, second, outcomes = (np.array(column) for column in zip(*rows, strict=True))
    counts = count_battles(first, second, outcomes=outcomes, n_models=6)
    turned = count_battles(second, first, outcomes=1 - outcomes, n_models=6)
    assert counts.battles.sum() == len(rows)
    assert np.array_equal(counts.wins, turned.wins)
    assert np.array_equal(counts.ties, turned.ties)
    assert np.array_equal(counts.losses, turned.losses)


def test_battles_with_features_stay_single() -> None:
    counts = count_battles(
        [0, 1], [1, 0], outcomes=[1, 0.5], n_models=2, features=np.array([[0.1], [0.2]])
    )
    assert counts.first.tolist() == [0, 1]
    assert counts.battles.tolist() == [1, 1]
    assert counts.points.tolist() == [1, 0.5]


def test_models_that_only_met_among_themselves_are_groups() -> None:
    counts = count_battles([0, 1, 3], [1, 2, 4], outcomes=[1, 0, 0.5], n_models=5)
    assert connected_groups(counts).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("outcomes", "n_groups"),
    [
        ([1, 1, 1], 1),  # a cycle: each took a point from the next
        ([1, 1, 0], 3),  # 0 beat 1, 1 beat 2, 0 beat 2: a ladder
        ([0.5, 1, 0], 2),  # 0 and 1 tied, both beat 2
        ([0.5, 0.5, 0], 1),
    ],
)
def test_ratings_are_bounded_where_points_went_round(outcomes: list[float], n_groups: int) -> None:
    counts = count_battles([0, 1, 2], [1, 2, 0], outcomes=outcomes, n_models=3)
    assert len(set(bounded_groups(counts).tolist())) == n_groups


def test_style_differences_are_ratios_over_their_root_mean_square() -> None:
    differences = style_differences([[500, 0], [10, 0]], [[520, 3], [30, 0]])
    ratios = np.array([[-20 / 1020, -1], [-20 / 40, 0]])
    assert differences == pytest.approx(ratios / np.sqrt((ratios**2).mean(axis=0)))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=20))
def test_exchanging_the_sides_negates_the_style_differences(rows: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, dtype=float)[:, None] for column in zip(*rows, strict=True))
    if np.array_equal(a, b):
        return
    differences = style_differences(a, b)
    assert np.array_equal(differences, -style_differences(b, a))
    assert (differences**2).mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": [], "second": [], "outcomes": []}, "need battles"),
        ({"outcomes": [1.0]}, "three lists of one length"),
        ({"second": [1, 3]}, "numbered from 0 to 2"),
        ({"first": [-1, 0]}, "numbered from 0 to 2"),
        ({"first": [0, 2]}, "battle 1 is of a model against itself"),
        ({"outcomes": [1.0, 0.7]}, "outcomes must be 1, 0.5 or 0, got 0.7"),
        ({"outcomes": [1.0, np.nan]}, "outcomes must be 1, 0.5 or 0, got nan"),
        ({"features": np.zeros((3, 1))}, "finite features of 2 rows"),
        ({"features": np.array([[0.0], [np.inf]])}, "finite features"),
    ],
)
def test_battles_that_cannot_be_counted_are_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"first": [0, 1], "second": [1, 2], "outcomes": [1.0, 0.5]}
    given_ = good | {"n_models": 3} | changes
    with pytest.raises(ValueError, match=message):
        count_battles(given_.pop("first"), given_.pop("second"), **given_)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([[1.0]], [[1.0, 2.0]], "of one shape"),
        ([[-1.0]], [[1.0]], "not negative"),
        ([[np.nan]], [[1.0]], "must be finite"),
        ([[1.0, 2.0]], [[2.0, 2.0]], "feature 1 never differs"),
    ],
)
def test_style_that_cannot_be_compared_is_refused(
    a: list[list[float]], b: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        style_differences(a, b)
