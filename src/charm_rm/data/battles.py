"""Battles: which of two models' responses people preferred.

Read are the layouts of arena-human-preference-55k (one-hot ``winner_model_a, winner_model_b,
winner_tie``), 100k and 140k (``winner``), and plain tables ``model_a, model_b, winner``. "Both bad"
is a tie. A winner that is not known is refused, never taken for a tie.
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from charm_rm.data.battle_style import count_style
from charm_rm.data.tables import DataError, read_table, require_columns, require_plain_columns

OUTCOMES = {
    "model_a": 1.0,
    "model_b": 0.0,
    "tie": 0.5,
    "tie (bothbad)": 0.5,
    "both_bad": 0.5,
    "tie (inconsistent)": 0.5,  # a judge whose verdict turned with the order of the responses
}
ONE_HOT = {"winner_model_a": 1.0, "winner_model_b": 0.0, "winner_tie": 0.5}
TIMES = ("tstamp", "timestamp", "date")
LAST_SECOND = 4_102_444_800  # 2100-01-01


def read_battles(
    paths: Iterable[str | Path], *, vote_type: str | None = None, style: bool = False
) -> pl.DataFrame:
    r"""One table of battles from any number of files.

    Args:
        paths: Files that `charm_rm.data.tables.read_table` reads, in any of the known layouts.
        vote_type: Which votes to take where there are several kinds (column ``vote_type``, such
            as human and gpt4), which are never mixed.
        style: Whether to count the style of both responses, see
            `charm_rm.data.battle_style.count_style`.

    Returns:
        Columns ``model_a, model_b, outcome`` (of model_a: 1, 0.5 or 0), ``date`` (null where
        unknown) and ``vote_type`` (likewise); with ``style`` its columns too.

    Raises:
        DataError: If a file can't be read, lacks a column, holds no battles, a battle has no
            model, one model twice, an unknown winner or a time that is none, the votes are of
            several kinds of which none was chosen or of none of the kind chosen, or there is no
            style to count.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "battles.csv"
        >>> _ = path.write_text("model_a,model_b,winner\na,b,model_a\nb,a,both_bad\n")
        >>> read_battles([path])["outcome"].to_list()
        [1.0, 0.5]
        >>> folder.cleanup()
    """
    names = [str(path) for path in paths]
    if not names:
        raise DataError("no battles given; name at least one file")
    frame = pl.concat([_read_one(name, style=style) for name in names])
    where = names[0] if len(names) == 1 else "battles"
    kinds = frame["vote_type"].unique().sort().to_list()
    if vote_type is None and len(kinds) > 1:
        raise DataError(
            f"{where}: votes of {len(kinds)} kinds ({', '.join(map(str, kinds))}), which are not "
            "to be mixed; choose one with --vote-type"
        )
    if vote_type is not None and vote_type not in kinds:
        known = ", ".join(str(kind) for kind in kinds if kind is not None) or "no kinds of votes"
        raise DataError(f"{where}: no votes of type {vote_type!r}; there are: {known}")
    return frame if vote_type is None else frame.filter(pl.col("vote_type") == vote_type)


def battle_outcomes(raw: pl.DataFrame, *, where: str) -> pl.Series:
    """Points of model_a in each battle, from ``winner`` or from its three one-hot columns.

    Args:
        raw: Battles as they stand in a file.
        where: The file, for messages.

    Returns:
        1 for a win of model_a, 0.5 for a tie, 0 for a loss, length n_battles.

    Raises:
        DataError: If there is no such column, or a battle has no winner that is known.

    Example:
        >>> raw = pl.DataFrame({"winner": ["model_b", "tie (bothbad)"]})
        >>> battle_outcomes(raw, where="battles.csv").to_list()
        [0.0, 0.5]
    """
    if set(ONE_HOT) <= set(raw.columns):
        flags = raw.select(pl.col(column).cast(pl.Float64, strict=False) for column in ONE_HOT)
        marked = flags.select((pl.all() == 1).fill_null(value=False))
        blank = flags.select((pl.all() == 0).fill_null(value=False))
        certain = (marked.sum_horizontal() == 1) & (blank.sum_horizontal() == 2)
        _refuse_first(~certain, "does not have one winner; mend it or drop it", where=where)
        return flags.select(
            pl.sum_horizontal(pl.col(column) * points for column, points in ONE_HOT.items())
        ).to_series()
    require_columns(raw, ("winner",), where=where)
    winners = raw["winner"].cast(pl.String)
    outcomes = winners.replace_strict(OUTCOMES, default=None, return_dtype=pl.Float64)
    unknown = outcomes.is_null().arg_true()
    if not unknown.is_empty():
        row = int(unknown[0])
        raise DataError(
            f"{_place(where, row)}: winner is {winners[row]!r}; it must be one of "
            f"{', '.join(OUTCOMES)}"
        )
    return outcomes


def _read_one(name: str, *, style: bool) -> pl.DataFrame:
    raw = read_table(name)
    require_columns(raw, ("model_a", "model_b"), where=name)
    if raw.is_empty():
        raise DataError(f"{name}: no rows; give a file with battles")
    plain = ("model_a", "model_b", "winner", *ONE_HOT, "vote_type", *TIMES)
    require_plain_columns(raw, plain, where=name)
    frame = raw.select(
        pl.col("model_a", "model_b").cast(pl.String),
        outcome=battle_outcomes(raw, where=name),
        date=_dates(raw, where=name),
        vote_type=_optional(raw, "vote_type"),
    )
    for column in ("model_a", "model_b"):
        _refuse_first(frame[column].is_null(), f"has no {column}; mend it or drop it", where=name)
    itself = frame["model_a"] == frame["model_b"]
    _refuse_first(itself, "is of a model against itself; drop it", where=name)
    return frame.hstack(count_style(raw, where=name)) if style else frame


def _dates(raw: pl.DataFrame, *, where: str) -> pl.Series:
    """Day of each battle, from seconds since 1970, a text or a time; null where there is none."""
    column = next((name for name in TIMES if name in raw.columns), None)
    if column is None:
        return pl.Series([None] * len(raw), dtype=pl.Date)
    times = raw[column]
    if times.dtype.is_numeric():
        wrong = ~times.is_between(0, LAST_SECOND).fill_null(value=True)
        what = f"has a {column} that is not in seconds since 1970; divide milliseconds by 1000"
        _refuse_first(wrong & times.is_not_nan(), what, where=where)
        return pl.from_epoch(times.cast(pl.Int64, strict=False), time_unit="s").dt.date()
    if times.dtype == pl.String:
        return times.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    if times.dtype not in (pl.Date, pl.Datetime, pl.Null):
        raise DataError(f"{where}: column {column!r} holds {times.dtype}, not dates; mend it")
    return times.cast(pl.Date)


def _optional(raw: pl.DataFrame, column: str) -> pl.Expr:
    return (pl.col(column) if column in raw.columns else pl.lit(None)).cast(pl.String)


def _refuse_first(bad: pl.Series, what: str, *, where: str) -> None:
    rows = bad.arg_true()
    if not rows.is_empty():
        raise DataError(f"{_place(where, int(rows[0]))}: that battle {what}")


def _place(where: str, row: int) -> str:
    return f"{where}:{row + 2}" if where.endswith(".csv") else f"{where}: row {row + 1}"
