"""Elo tables: dated ratings of models, bundled or the user's own.

A table is of one board and one date: differences of ratings across dates or boards mean
nothing, so a file that holds two is refused.

Ratings fitted together err together. Columns ``elo_error_1, elo_error_2, ...`` say how: the
covariance of two ratings is the sum over these columns of the products of their values, in
squared Elo points. Each row speaks for its own model, so rows may be dropped, sorted and renamed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.core.elo import elo_standard_error
from charm_rm.data.tables import (
    DataError,
    not_found,
    read_table,
    require_columns,
    require_number_columns,
    require_plain_columns,
)

DEFAULT_ELO = "table7"
MAX_SPAN = 4000.0  # Elo points; beyond it a win rate is 1 to ten digits
ELO_SCHEMA = {
    "model": pl.String,
    "elo": pl.Float64,
    "elo_low": pl.Float64,
    "elo_high": pl.Float64,
    "votes": pl.Int64,
    "date": pl.String,
    "board": pl.String,
    "source": pl.String,
}
ALIASES = "aliases.csv"  # other names of the Arena's models, beside the tables
ERROR_COLUMN = re.compile(r"elo_error_[0-9]+")
EloErrors = Literal["covariance", "independent", "none"]
_SNAPSHOTS = files("charm_rm.data") / "snapshots"


@dataclass(frozen=True)
class EloTable:
    """Ratings of one board at one date.

    Attributes:
        frame: Columns ``model, elo, elo_low, elo_high`` (95% interval, null where unknown),
            ``votes, date, board, source``, and the ``elo_error_*`` of ratings whose covariance is
            known; in Elo points.
        board: Name of the board; empty where the file has none.
        date: ISO date of the ratings; empty where the file has none.
        name: The file, or the name of the bundled table.
    """

    frame: pl.DataFrame
    board: str
    date: str
    name: str

    @property
    def models(self) -> list[str]:
        """Names of the rated models, in the order of the table.

        Example:
            >>> read_elo("table9-old").models
            ['gpt-4o-mini-2024-07-18', 'gemma-2-9b-it-SimPO']
        """
        return self.frame["model"].to_list()

    @property
    def errors(self) -> EloErrors:
        """What is known of the errors: a covariance, intervals (taken as independent), or nothing.

        Example:
            >>> read_elo("table7").errors
            'independent'
        """
        if len(self.frame.columns) > len(ELO_SCHEMA):
            return "covariance"
        return "none" if self.frame["elo_low"].is_null().all() else "independent"

    def to_json(self) -> dict[str, str]:
        """What a result says of the ratings that it rests on.

        Example:
            >>> read_elo("table7").to_json()
            {'board': 'chatbot-arena text overall', 'date': '2025-03-03', 'errors': 'independent'}
        """
        return {"board": self.board, "date": self.date, "errors": self.errors}

    def error_factor(self, models: Sequence[str]) -> NDArray[np.float64]:
        """Errors of some ratings: F, where F F^T is their covariance (`core.elo.draw_elo`).

        Args:
            models: Names, each of which must be in the table.

        Returns:
            Elo points, shape (n_models, n_factors): the ``elo_error_*``, or else a diagonal matrix
            of the standard errors behind the intervals, 0 where there is none.

        Raises:
            DataError: If a model is not in the table.

        Example:
            >>> rows = {"model": ["a", "b"], "elo": [1000, 1050], "elo_error_1": [3.0, 3.0]}
            >>> elo_table(pl.DataFrame(rows), name="mine").error_factor(["b"])
            array([[3.]])
        """
        ratings = self.ratings(models)
        if self.errors != "covariance":
            return np.diag(elo_standard_error(ratings[:, 1], ratings[:, 2]))
        columns = self.frame.columns[len(ELO_SCHEMA) :]
        rows = {row[0]: row[1:] for row in self.frame.select("model", *columns).iter_rows()}
        return np.array([rows[model] for model in models], dtype=np.float64)

    def ratings(self, models: Sequence[str]) -> NDArray[np.float64]:
        """Rating and its 95% interval for each model, in Elo points.

        Args:
            models: Names, each of which must be in the table.

        Returns:
            Columns rating, low, high, shape (n_models, 3); NaN for an unknown interval.

        Raises:
            DataError: If a model is not in the table; the nearest names are listed.

        Example:
            >>> read_elo("table7").ratings(["gpt4_0613"])
            array([[1163., 1160., 1166.]])
        """
        rows = {row[0]: row[1:] for row in self.frame.select(*ELO_SCHEMA).iter_rows()}
        for model in models:
            if model not in rows:
                raise not_found("Elo rating for", model, names=list(rows), where=self.name)
        values = [[np.nan if x is None else x for x in rows[model][:3]] for model in models]
        return np.array(values, dtype=np.float64)


def bundled_elo_names() -> list[str]:
    """Names of the Elo tables that come with the package, the default first.

    Example:
        >>> bundled_elo_names()
        ['table7', 'table7-as-printed', 'table9-old', 'table9-updated']
    """
    names = sorted(Path(entry.name).stem for entry in _SNAPSHOTS.iterdir() if _is_table(entry.name))
    return sorted(names, key=lambda name: name != DEFAULT_ELO)


def read_elo(name: str | Path) -> EloTable:
    """An Elo table, by the name of a bundled one or from a file.

    Args:
        name: One of `bundled_elo_names`, or a file with columns ``model`` and ``elo`` and, if
            known, ``elo_low, elo_high, votes, date, board, source`` and ``elo_error_1, ...``.

    Returns:
        The checked table.

    Raises:
        DataError: If there is no such table or file, a rating is not a finite number, a model
            stands twice, or the rows are of two boards or dates.

    Example:
        >>> float(read_elo("table7").ratings(["gemma-2-9b-it-SimPO"])[0, 0])
        1216.0
    """
    text = str(name)
    if text in bundled_elo_names():
        with as_file(_SNAPSHOTS / f"{text}.csv") as path:
            return elo_table(read_table(path), name=text)
    if not Path(text).suffix and not Path(text).exists():
        raise not_found("Elo table", text, names=bundled_elo_names(), where="bundled tables")
    return elo_table(read_table(text), name=text)


def _is_table(name: str) -> bool:
    return name.endswith(".csv") and name != ALIASES


def require_ratings(elo: EloTable, policies: Sequence[str]) -> None:
    """Policies that can be compared: at least two, and each with a rating.

    Args:
        elo: The ratings.
        policies: Names in the scores.

    Raises:
        DataError: If there are fewer than two, or one has no rating.

    Example:
        >>> require_ratings(read_elo("table7"), ["vicuna-7b", "vicuna-13b"])
    """
    if len(policies) < 2:
        raise DataError(
            f"scores: only the policy {', '.join(policies)!r}; "
            "an audit compares at least two, so add scores of another"
        )
    rated = set(elo.models)
    unrated = [policy for policy in policies if policy not in rated]
    if unrated:
        error = not_found("Elo rating for", unrated[0], names=elo.models, where=elo.name)
        more = f" ({len(unrated)} policies have none)" if len(unrated) > 1 else ""
        raise DataError(f"{error}{more}; rename it, or give --rated-only to leave it out")


def elo_table(raw: pl.DataFrame, *, name: str) -> EloTable:
    """An Elo table from a frame, checked.

    Args:
        raw: Columns ``model`` and ``elo`` and, if known, the other ones of ``ELO_SCHEMA`` and
            ``elo_error_1, ...``.
        name: Where it came from, for messages.

    Returns:
        The table.

    Raises:
        DataError: As for `read_elo`.

    Example:
        >>> elo_table(pl.DataFrame({"model": ["a"], "elo": [1000]}), name="mine").models
        ['a']
    """
    require_columns(raw, ("model", "elo"), where=name)
    if raw.is_empty():
        raise DataError(f"{name}: no rows; give a table with ratings")
    errors = [column for column in raw.columns if ERROR_COLUMN.fullmatch(column)]
    require_plain_columns(raw, ELO_SCHEMA, where=name)
    require_number_columns(raw, ("elo", "elo_low", "elo_high", "votes", *errors), where=name)
    frame = raw.select(
        pl.col(column).cast(kind, strict=False)
        if column in raw.columns
        else pl.lit(None, dtype=kind).alias(column)
        for column, kind in (ELO_SCHEMA | dict.fromkeys(errors, pl.Float64)).items()
    )
    _refuse_bad_ratings(raw, frame, name=name)
    repeated = frame.filter(pl.col("model").is_duplicated())["model"]
    if not repeated.is_empty():
        raise DataError(f"{name}: model {repeated[0]!r} is rated more than once; keep one row")
    return EloTable(
        frame=frame,
        board=_only_value(frame, "board", name=name),
        date=_only_value(frame, "date", name=name),
        name=name,
    )


def _refuse_bad_ratings(raw: pl.DataFrame, frame: pl.DataFrame, *, name: str) -> None:
    nameless = frame["model"].is_null().arg_true()
    if not nameless.is_empty():
        raise DataError(f"{name}: row {int(nameless[0]) + 1} has no model; mend it or drop it")
    for column in ("elo", "elo_low", "elo_high", *frame.columns[len(ELO_SCHEMA) :]):
        if column not in raw.columns:
            continue
        usable = frame[column].is_finite().fill_null(value=False)
        absent = raw[column].is_null() & (column in ("elo_low", "elo_high"))
        bad = (~(usable | absent)).arg_true()
        if not bad.is_empty():
            row = int(bad[0])
            raise DataError(
                f"{name}: row {row + 1}: {column} of {str(raw['model'][row])!r} is "
                f"{str(raw[column][row])!r}, not a finite number; mend that row or drop it"
            )
    half = frame.filter(pl.col("elo_low").is_null() != pl.col("elo_high").is_null())
    if not half.is_empty():
        model = half["model"][0]
        raise DataError(f"{name}: the interval of {model!r} has one end only; give both or none")
    ends = frame.select("elo", "elo_low", "elo_high").to_numpy()
    span = float(np.nanmax(ends) - np.nanmin(ends))
    if span > MAX_SPAN:
        raise DataError(
            f"{name}: ratings span {span:.0f} points; Elo points are wanted, 400 per factor of ten"
        )
    inverted = frame.filter(
        (pl.col("elo_low") > pl.col("elo")) | (pl.col("elo_high") < pl.col("elo"))
    )
    if not inverted.is_empty():
        model = inverted["model"][0]
        raise DataError(
            f"{name}: the interval of {model!r} does not hold its rating; mend that row"
        )


def _only_value(frame: pl.DataFrame, column: str, *, name: str) -> str:
    values = frame[column].drop_nulls().unique().sort().to_list()
    if len(values) > 1:
        raise DataError(
            f"{name}: ratings of {len(values)} {column}s ({', '.join(values[:4])}); "
            f"ratings compare only within one, so keep the rows of one {column}"
        )
    return values[0] if values else ""
