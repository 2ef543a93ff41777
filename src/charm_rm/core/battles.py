"""Battles as counts: how often each pair of models met, and with what outcome.

A battle is one comparison of two models' responses: won, tied or lost. A rating depends on the
battles only through these counts, so a million battles of a hundred models are a few thousand
numbers. Memory grows with the square of the number of models.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BattleCounts:
    """Battles, summed over each pair of models, or one per row where style features differ.

    Attributes:
        n_models: Number of models; they are numbered from 0.
        first: One model of each row, shape (n_rows,).
        second: The other model, same shape.
        wins: Battles that ``first`` won, same shape.
        ties: Battles that neither won, same shape.
        losses: Battles that ``second`` won, same shape.
        features: Style of ``first`` minus style of ``second``, shape (n_rows, n_features);
            without style control n_features is 0.
    """

    n_models: int
    first: Ints
    second: Ints
    wins: Floats
    ties: Floats
    losses: Floats
    features: Floats

    @property
    def battles(self) -> Floats:
        """Battles of each row, shape (n_rows,).

        Example:
            >>> count_battles([0, 1, 0], [1, 0, 1], outcomes=[1, 1, 0.5], n_models=2).battles
            array([3.])
        """
        return self.wins + self.ties + self.losses

    @property
    def points(self) -> Floats:
        """Points of ``first``, a tie being half a win, shape (n_rows,).

        Example:
            >>> count_battles([0, 1, 0], [1, 0, 1], outcomes=[1, 1, 0.5], n_models=2).points
            array([1.5])
        """
        return self.wins + 0.5 * self.ties


def count_battles(
    first: ArrayLike,
    second: ArrayLike,
    *,
    outcomes: ArrayLike,
    n_models: int,
    features: Floats | None = None,
) -> BattleCounts:
    """Battles as counts: summed over pairs, or kept single where they carry style features.

    Args:
        first: Number of one model of each battle, shape (n_battles,).
        second: Number of the other, same shape.
        outcomes: 1 where ``first`` won, 0.5 for a tie, 0 where ``second`` won, same shape.
        n_models: Number of models; the numbers lie in 0 to n_models - 1.
        features: From `style_differences`, shape (n_battles, n_features).

    Returns:
        The counts; a pair stands once, with the smaller number first, unless there are features.

    Raises:
        ValueError: If there are no battles, the shapes differ, a number is out of range, a model
            meets itself, or an outcome is not 1, 0.5 or 0.

    Example:
        >>> counts = count_battles([0, 1, 0], [1, 0, 1], outcomes=[1, 1, 0.5], n_models=2)
        >>> counts.wins, counts.ties, counts.losses
        (array([1.]), array([1.]), array([1.]))
    """
    one, other, score = np.asarray(first), np.asarray(second), np.asarray(outcomes)
    _check_battles(one, other, outcomes=score, n_models=n_models)
    doubled = (2 * score).astype(np.int64)  # 2 win, 1 tie, 0 loss
    if features is not None:
        if features.ndim != 2 or len(features) != one.size or not np.all(np.isfinite(features)):
            raise ValueError(f"need finite features of {one.size} rows, got {features.shape}")
        wins, ties, losses = (doubled == np.array([[2], [1], [0]])).astype(np.float64)
        return BattleCounts(n_models, one, other, wins, ties, losses, features)
    low, high = np.minimum(one, other), np.maximum(one, other)
    seen_from_low = np.where(one < other, doubled, 2 - doubled)
    cell = (low.astype(np.int64) * n_models + high) * 3 + seen_from_low
    counts = np.bincount(cell, minlength=3 * n_models**2).reshape(-1, 3)
    pair = np.flatnonzero(counts.any(axis=1))
    losses, ties, wins = counts[pair].T.astype(np.float64)
    none = np.empty((pair.size, 0))
    return BattleCounts(n_models, *np.divmod(pair, n_models), wins, ties, losses, none)


def style_differences(style: ArrayLike, other: ArrayLike) -> Floats:
    """Style features of battles: (a - b) / (a + b), over their root mean square.

    Dividing by the sum makes 520 words against 500 a small difference and 40 against 20 a large
    one; two zeros differ by 0. The scale makes effects comparable. Nothing is subtracted, so that
    exchanging the sides of a battle negates its features.

    Args:
        style: Counts in the responses of the first models (length, headers, ...), shape
            (n_battles, n_features).
        other: The same for the second models.

    Returns:
        Differences, same shape; each column has a mean square of 1.

    Raises:
        ValueError: If the shapes differ, a count is negative or not finite, or a feature never
            differs.

    Example:
        >>> style_differences([[30.0], [10.0]], [[10.0], [10.0]]).round(3).ravel()
        array([1.414, 0.   ])
    """
    a, b = np.asarray(style, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"need two tables of style counts of one shape, got {a.shape}, {b.shape}")
    if not np.all(np.isfinite(a) & np.isfinite(b) & (a >= 0) & (b >= 0)):
        raise ValueError("style counts must be finite and not negative")
    total = a + b
    ratio = np.divide(a - b, total, out=np.zeros_like(total), where=total > 0)
    scale = np.sqrt(np.mean(ratio**2, axis=0))
    if np.any(scale == 0):
        raise ValueError(f"style feature {int(np.argmin(scale))} never differs; leave it out")
    return np.asarray(ratio / scale)


def connected_groups(counts: BattleCounts) -> Ints:
    """Group of each model, where battles link the models of a group, directly or through others.

    Ratings of two groups can't be compared; `fit_ratings` refuses more than one.

    Args:
        counts: The battles.

    Returns:
        Group numbers from 0, shape (n_models,).

    Example:
        >>> counts = count_battles([0, 2], [1, 3], outcomes=[1, 0], n_models=4)
        >>> connected_groups(counts).tolist()
        [0, 0, 1, 1]
    """
    return _components(counts.first, counts.second, n_models=counts.n_models, kind="weak")


def bounded_groups(counts: BattleCounts) -> Ints:
    """Group of each model, where every model took points from every other, through others or not.

    With more than one group the data are separable: the models of one never took a point from
    those of another, so the likelihood keeps rising as the groups move apart (Ford 1957).

    Args:
        counts: The battles.

    Returns:
        Group numbers from 0, shape (n_models,).

    Example:
        >>> never_beaten = count_battles([0, 1, 1], [1, 2, 2], outcomes=[1, 1, 0], n_models=3)
        >>> len(set(bounded_groups(never_beaten).tolist()))
        2
    """
    scored, conceded = counts.points > 0, counts.points < counts.battles
    takers = np.concatenate([counts.first[scored], counts.second[conceded]])
    givers = np.concatenate([counts.second[scored], counts.first[conceded]])
    return _components(takers, givers, n_models=counts.n_models, kind="strong")


def undecided_models(counts: BattleCounts) -> NDArray[np.bool_]:
    """Models of which every battle was a tie: nothing shows how much their outcomes vary.

    Args:
        counts: The battles.

    Returns:
        Shape (n_models,).

    Example:
        >>> counts = count_battles([0, 0, 1], [1, 1, 2], outcomes=[1, 0, 0.5], n_models=3)
        >>> undecided_models(counts).tolist()
        [False, False, True]
    """
    decided = np.tile(counts.wins + counts.losses, 2)
    sides = np.concatenate([counts.first, counts.second])
    return np.asarray(np.bincount(sides, decided, counts.n_models) == 0)


def _components(rows: Ints, columns: Ints, *, n_models: int, kind: str) -> Ints:
    links = coo_array((np.ones(rows.size), (rows, columns)), shape=(n_models, n_models))
    _, labels = connected_components(links.tocsr(), directed=True, connection=kind)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _check_battles(first: Ints, second: Ints, *, outcomes: Floats, n_models: int) -> None:
    if first.size == 0 or not first.shape == second.shape == outcomes.shape == (first.size,):
        raise ValueError(
            f"need battles as three lists of one length, got {first.shape}, {second.shape}, "
            f"{outcomes.shape}"
        )
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= n_models:
        raise ValueError(f"models must be numbered from 0 to {n_models - 1}")
    if np.any(first == second):
        raise ValueError(f"battle {int(np.argmax(first == second))} is of a model against itself")
    known = np.isin(outcomes, (0.0, 0.5, 1.0))
    if not known.all():
        raise ValueError(f"outcomes must be 1, 0.5 or 0, got {outcomes[np.argmin(known)]}")
