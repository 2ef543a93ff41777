"""Elo tables fitted from battles: names and dates around `charm_rm.core.ratings`."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from charm_rm.core.battles import (
    BattleCounts,
    Floats,
    bounded_groups,
    connected_groups,
    count_battles,
    style_differences,
    undecided_models,
)
from charm_rm.core.elo import NORMAL_95, covariance_factor
from charm_rm.core.intervals import percentile_interval
from charm_rm.core.ratings import Ratings, fit_ratings, resample_ratings
from charm_rm.data.arena import EloTable, elo_table
from charm_rm.data.battle_style import STYLE, style_columns
from charm_rm.data.tables import DataError, not_found, require_columns


@dataclass(frozen=True)
class FittedElo:
    """An Elo table fitted from battles, and how it was fitted.

    Attributes:
        table: The ratings, best model first, with their covariance in ``elo_error_*``; ``votes``
            counts the battles of each model.
        covariance: Covariance of the ratings in squared Elo points, in the order of the table,
            with the anchor or the mean held fixed: the sandwich's or the posterior's, also where
            the intervals are from the bootstrap.
        n_battles: Number of battles.
        anchor: The model whose rating was given; None where the mean of all models was.
        origin: That rating, in Elo points.
        interval: Where the 95% intervals come from: ``"sandwich"``, ``"bootstrap"``, or
            ``"posterior"`` where the battles alone do not bound every rating.
        n_resamples: Bootstrap resamples behind the intervals.
        seed: Of the bootstrap.
        ridge: Weight of the prior on the ratings, 0 where none was needed.
        style: Style feature -> effect and its standard error, in log-odds per unit of the
            standardised difference; empty without style control.
        warnings: What a reader should know before using the ratings.
    """

    table: EloTable
    covariance: Floats
    n_battles: int
    anchor: str | None
    origin: float
    interval: str
    n_resamples: int
    seed: int
    ridge: float
    style: dict[str, tuple[float, float]]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fit as a JSON document, without the covariance.

        Example:
            >>> rows = {"model_a": ["a"] * 2, "model_b": ["b"] * 2, "outcome": [1.0, 0.0]}
            >>> fit_elo(pl.DataFrame(rows), board="mine").to_json()["n_battles"]
            2
        """
        ratings = self.table.frame.select("model", "elo", "elo_low", "elo_high", "votes")
        settings = ("n_battles", "anchor", "origin", "interval", "n_resamples", "seed", "ridge")
        style = {name: {"effect": e, "standard_error": se} for name, (e, se) in self.style.items()}
        return {
            "board": self.table.board,
            "date": self.table.date or None,
            **{name: getattr(self, name) for name in settings},
            "style": style,
            "ratings": ratings.to_dicts(),
            "warnings": list(self.warnings),
        }


def fit_elo(
    battles: pl.DataFrame,
    *,
    board: str,
    anchor: str | None = None,
    origin: float = 1000.0,
    style_control: bool = False,
    n_resamples: int = 0,
    seed: int = 0,
    source: str = "",
) -> FittedElo:
    """Bradley-Terry ratings of the models in the battles, with 95% intervals.

    Args:
        battles: Columns ``model_a, model_b, outcome`` and, if known, ``date``, as
            `charm_rm.data.battles.read_battles` returns them.
        board: Name of the board that these ratings make; boards are not to be mixed.
        anchor: Model whose rating is given; by default the mean of all models is.
        origin: Elo points of the anchor, or of the mean.
        style_control: Whether to fit the effects of length, headers, lists and bold as well;
            needs the columns of `charm_rm.data.battle_style.count_style`.
        n_resamples: Bootstrap resamples behind the intervals; with 0 they are +- 1.96 sandwich
            standard errors.
        seed: Of the bootstrap.
        source: Where the battles come from.

    Returns:
        The Elo table, dated with the last battle, and the settings behind it.

    Raises:
        DataError: If there are no battles, the models fall into groups that never met, the
            anchor is not among them, style was not counted, never differs or can't be told from
            the models.

    Example:
        >>> rows = {"model_a": ["a"] * 4, "model_b": ["b"] * 4, "outcome": [1.0, 1.0, 1.0, 0.0]}
        >>> fitted = fit_elo(pl.DataFrame(rows), board="mine", anchor="b")
        >>> [round(elo, 2) for elo in fitted.table.frame["elo"]]  # 400 log10(3) apart
        [1190.85, 1000.0]
    """
    if battles.is_empty():
        raise DataError("no battles to rate; give at least one")
    models = pl.concat([battles["model_a"], battles["model_b"]]).unique().sort()
    names = models.to_list()
    if anchor is not None and anchor not in names:
        raise not_found("anchor", anchor, names=names, where="battles")
    features, unused = _style_features(battles) if style_control else ({}, [])
    counts = _count(battles, models, features=features)
    _refuse_islands(counts, names)
    at = names.index(anchor) if anchor is not None else None
    try:
        ratings = fit_ratings(counts, anchor=at, origin=origin)
    except ValueError as error:
        raise DataError(f"battles: {error}") from error
    low, high, interval = _intervals(counts, ratings, n_resamples=n_resamples, seed=seed)
    best_first = np.argsort(-ratings.elo, kind="stable")
    frame = pl.DataFrame(
        {"model": names, "elo": ratings.elo, "elo_low": low, "elo_high": high}
    ).with_columns(
        votes=_battles_of_each(counts),
        date=pl.lit(_last_date(battles), pl.String),
        board=pl.lit(board),
        source=pl.lit(source or None, pl.String),
        **_error_columns(ratings.covariance),
    )
    effects = zip(ratings.style.tolist(), ratings.style_error.tolist(), strict=True)
    return FittedElo(
        table=elo_table(frame[best_first], name=board),
        covariance=ratings.covariance[np.ix_(best_first, best_first)],
        n_battles=len(battles),
        anchor=anchor,
        origin=origin,
        interval=interval,
        n_resamples=n_resamples if interval == "bootstrap" else 0,
        seed=seed,
        ridge=ratings.ridge,
        style=dict(zip(features, effects, strict=True)),
        warnings=(*_unbounded(counts, ratings, names=names), *_undecided(counts, names), *unused),
    )


def _error_columns(covariance: Floats) -> dict[str, pl.Series]:
    """The columns in which an Elo table holds the covariance of its ratings."""
    factor = covariance_factor(covariance)
    return {f"elo_error_{at}": pl.Series(column) for at, column in enumerate(factor.T, start=1)}


def _style_features(battles: pl.DataFrame) -> tuple[dict[str, Floats], list[str]]:
    """Standardised differences by feature; and a warning for each that never differs."""
    require_columns(battles, style_columns(), where="battles")
    features, unused = {}, []
    for name in STYLE:
        sides = battles.select(f"{name}_a", f"{name}_b").cast(pl.Float64)
        if sides[:, 0].equals(sides[:, 1]):
            unused.append(f"style feature {name!r} never differs; it was left out")
        else:
            features[name] = style_differences(*(sides[:, [at]].to_numpy() for at in (0, 1)))[:, 0]
    if not features:
        raise DataError("battles: no style feature ever differs; leave out style control")
    return features, unused


def _count(
    battles: pl.DataFrame, models: pl.Series, *, features: dict[str, Floats]
) -> BattleCounts:
    numbers = pl.Enum(models)
    sides = (
        battles[side].cast(numbers).to_physical().to_numpy() for side in ("model_a", "model_b")
    )
    first, second = (side.astype(np.int64) for side in sides)
    return count_battles(
        first,
        second,
        outcomes=battles["outcome"].to_numpy(),
        n_models=len(models),
        features=np.column_stack(list(features.values())) if features else None,
    )


def _battles_of_each(counts: BattleCounts) -> pl.Series:
    sides = np.concatenate([counts.first, counts.second])
    return pl.Series(np.bincount(sides, np.tile(counts.battles, 2), counts.n_models))


def _refuse_islands(counts: BattleCounts, names: list[str]) -> None:
    groups = connected_groups(counts)
    if not groups.any():
        return
    sizes = np.bincount(groups)
    parts = [_listed([names[at] for at in np.flatnonzero(groups == g)]) for g in np.argsort(-sizes)]
    raise DataError(
        f"battles: {len(parts)} groups of models never met, so their ratings do not compare: "
        f"{' | '.join(parts[:4])}{' | ...' if len(parts) > 4 else ''}; rate one group at a time"
    )


def _intervals(
    counts: BattleCounts, ratings: Ratings, *, n_resamples: int, seed: int
) -> tuple[Floats, Floats, str]:
    if n_resamples and not ratings.ridge and not undecided_models(counts).any():
        rng = np.random.default_rng(seed)
        samples = resample_ratings(counts, ratings, n_resamples=n_resamples, rng=rng)
        low, high = percentile_interval(samples)
        # With very few battles a rating can lie outside the percentiles of its resamples.
        return np.minimum(low, ratings.elo), np.maximum(high, ratings.elo), "bootstrap"
    half = NORMAL_95 * ratings.standard_error
    return ratings.elo - half, ratings.elo + half, "posterior" if ratings.ridge else "sandwich"


def _unbounded(counts: BattleCounts, ratings: Ratings, *, names: list[str]) -> list[str]:
    """What to say where the battles alone leave a rating infinite."""
    if not ratings.ridge:
        return []
    groups = bounded_groups(counts)
    apart = np.flatnonzero(groups != np.bincount(groups).argmax())
    who = _listed([names[at] for at in apart])
    why = f"{who}: never took or never lost a point" if who else "a style feature decides them"
    return [
        f"the battles do not bound every rating ({why}): a prior of 10 log-odds (ridge "
        f"{ratings.ridge:g}) keeps them finite, and the intervals are of the posterior under it"
    ]


def _undecided(counts: BattleCounts, names: list[str]) -> list[str]:
    """What to say where the outcomes of a model do not show how much they vary."""
    ties_only = np.flatnonzero(undecided_models(counts))
    if not ties_only.size:
        return []
    return [
        f"every battle of {_listed([names[at] for at in ties_only])} is a tie, which says nothing "
        "of how outcomes vary: the intervals (sandwich) count these ties as even chances"
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _last_date(battles: pl.DataFrame) -> str | None:
    last = battles["date"].max() if "date" in battles.columns else None
    return last.isoformat() if isinstance(last, date) else None
