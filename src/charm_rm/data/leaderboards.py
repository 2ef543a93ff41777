"""Leaderboards that an arena published, read as Elo tables of one board and one date.

Read are lmarena's own exports (``model_name, rating, rating_lower, rating_upper, variance,
vote_count, category, leaderboard_publish_date``), the older CSV (``Model, Arena Score, 95% CI``,
intervals like ``+3/-5``), and histories of many dates, sources and categories. Of a file that holds
several of these one must be chosen: nothing is picked silently, nothing is mixed.
"""

import datetime
import re
from pathlib import Path

import polars as pl

from charm_rm.core.elo import NORMAL_95
from charm_rm.data.arena import EloTable, elo_table
from charm_rm.data.tables import (
    DataError,
    nearest_names,
    read_table,
    require_number_columns,
    require_plain_columns,
)

LATEST = "latest"
# What each column may be called, in lower-case letters and digits only; the first that is not
# null counts. A number that is no Elo rating, such as Arena-Hard's "score", is not among them.
HEADERS = {
    "model": ("modelkey", "modelname", "modeldisplay", "model"),
    "elo": ("rating", "arenascore", "arenaelo"),
    "elo_low": ("ratinglower", "ratingcilow"),
    "elo_high": ("ratingupper", "ratingcihigh"),
    "interval": ("95ci", "95pctci"),
    "variance": ("variance",),
    "votes": ("votecount", "votes"),
    "date": ("leaderboardpublishdate", "date"),
    "source": ("source",),
    "board": ("board", "arena", "subset"),
    "category": ("category",),
}
CHOICES = ("source", "board", "category", "date")  # a table may hold one value of each
SHARD = re.compile(r"-\d+-of-\d+$")


def read_leaderboard(
    path: str | Path,
    *,
    date: str | None = None,
    category: str | None = None,
    board: str | None = None,
    source: str | None = None,
) -> EloTable:
    r"""The ratings of one board at one date.

    Args:
        path: A leaderboard file that `charm_rm.data.tables.read_table` reads.
        date: ISO date, or ``"latest"``. In a file without dates it says what date that file is of.
        category: Category of prompts, such as ``"overall"``.
        board: Board, such as ``"text"``. In a file without boards it says which board that file
            is; by default the file's name does.
        source: Who published it, in files of several sources.

    Returns:
        The table, best model first. Without published intervals they are rating +- 1.96
        standard deviations where the variance is known, else null.

    Raises:
        DataError: If the file can't be read, has no models or ratings, holds several dates,
            categories, boards or sources of which none was chosen, does not hold the chosen one,
            has no date while none was given, an interval can't be read, or the rows chosen are
            not an Elo table (a model twice, a rating that is not a number).

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "arena.csv"
        >>> _ = path.write_text("Model,Arena Score,95% CI\nGPT-4o,1285,+3/-5\n")
        >>> read_leaderboard(path, date="2024-08-01").ratings(["GPT-4o"])
        array([[1285., 1280., 1288.]])
        >>> folder.cleanup()
    """
    name = str(path)
    given = {"source": source, "board": board, "category": category, "date": date}
    frame = _known_columns(read_table(path), where=name)
    frame = _choose(frame, {c: v for c, v in given.items() if c in frame.columns}, where=name)
    frame = _with_intervals(frame, where=name)
    given |= {column: frame[column][0] for column in CHOICES if column in frame.columns}
    if given["date"] is None:
        raise DataError(f"{name}: no column of dates; say of which date it is, with --date")
    label = " ".join(filter(None, [given["board"] or _board_of(name), given["category"]]))
    labelled = frame.with_columns(
        date=pl.lit(_iso_date(str(given["date"]), where=name)),
        board=pl.lit(label),
        source=pl.lit(given["source"] or Path(name).name),
    )
    return elo_table(labelled.sort("elo", descending=True, maintain_order=True), name=name)


def _known_columns(raw: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """The columns that mean something here, under this project's names."""
    plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in raw.columns}
    known = {
        column: [plain[header] for header in headers if header in plain]
        for column, headers in HEADERS.items()
    }
    for column, example in (("model", "model_name"), ("elo", "rating")):
        if not known[column]:
            raise DataError(
                f"{where}: no column that holds the {column}, such as {example!r}; "
                f"it has {', '.join(raw.columns)}"
            )
    require_plain_columns(raw, [name for names in known.values() for name in names], where=where)
    frame = raw.select(
        pl.coalesce(columns).alias(column) for column, columns in known.items() if columns
    )
    if frame.is_empty():
        raise DataError(f"{where}: no rows; give a leaderboard with ratings")
    row = frame["model"].is_null().arg_true()
    if not row.is_empty():
        raise DataError(f"{where}: row {int(row[0]) + 1} has no model; mend that row or drop it")
    text = [column for column in ("model", *CHOICES) if column in frame.columns]
    frame = frame.with_columns(pl.col(text).cast(pl.String))
    if "date" in text:
        frame = frame.with_columns(pl.col("date").str.slice(0, 10))  # a time of day may follow
    return frame


def _choose(frame: pl.DataFrame, choices: dict[str, str | None], *, where: str) -> pl.DataFrame:
    """The rows chosen, where every column that could be chosen from has one value left."""
    for column, wanted in choices.items():  # the date comes last: the latest of what was chosen
        values = frame[column].drop_nulls().unique().sort().to_list()
        if wanted is None or not values:
            continue
        value = values[-1] if (column, wanted) == ("date", LATEST) else wanted
        if value not in values:
            near = ", ".join(_nearest(column, value, values=values))
            raise DataError(f"{where}: no ratings of {column} {value!r}; nearest: {near}")
        frame = frame.filter(pl.col(column) == value)
    for column in choices:
        values = frame[column].unique().sort().to_list()
        if len(values) > 1:
            raise DataError(
                f"{where}: ratings of {len(values)} {_plural(column)} ({_listed(values)}), "
                f"which do not compare; choose one with --{column}"
            )
    return frame


def _nearest(column: str, value: str, *, values: list[str]) -> list[str]:
    """Up to four values of a column that are closest to one that is not there."""
    if column != "date":
        return nearest_names(value, values) or values[:4]
    before = [known for known in values if known < value]  # ISO dates sort as text
    return before[-2:] + values[len(before) :][:2]


def _plural(column: str) -> str:
    return {"category": "categories"}.get(column, f"{column}s")


def _listed(values: list[str | None]) -> str:
    texts = [value if value is not None else "none" for value in values]
    return ", ".join(texts) if len(texts) <= 8 else f"{texts[0]} to {texts[-1]}"


def _with_intervals(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Interval ends from their own columns, else from ``+3/-5``, else from the variance."""
    frame = _as_numbers(frame, where=where)
    low, high = [pl.lit(None, pl.Float64)], [pl.lit(None, pl.Float64)]
    if "variance" in frame.columns:
        half = NORMAL_95 * pl.col("variance").sqrt()
        low, high = [pl.col("elo") - half, *low], [pl.col("elo") + half, *high]
    if "interval" in frame.columns:
        text = pl.col("interval").cast(pl.String).str.replace_all(r"\s", "")
        up, down = (
            text.str.extract(sign + r"(\d+(?:\.\d+)?)(?:/|$)").cast(pl.Float64)
            for sign in (r"\+", "-")
        )
        unread = frame.filter(pl.col("interval").is_not_null() & (up.is_null() | down.is_null()))
        if not unread.is_empty():
            model, bad = unread.select("model", "interval").row(0)
            raise DataError(f"{where}: interval of {model!r} is {bad!r}; it should be like '+3/-5'")
        low, high = [pl.col("elo") - down, *low], [pl.col("elo") + up, *high]
    if "elo_low" in frame.columns and "elo_high" in frame.columns:
        low, high = [pl.col("elo_low"), *low], [pl.col("elo_high"), *high]
    return frame.with_columns(elo_low=pl.coalesce(low), elo_high=pl.coalesce(high))


def _as_numbers(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    columns = ("elo", "elo_low", "elo_high", "variance", "votes")
    require_number_columns(frame, columns, where=where)
    for column in columns:
        if column not in frame.columns:
            continue
        number = frame[column].cast(pl.Float64, strict=False)
        bad = (number.is_null() & frame[column].is_not_null()).arg_true()
        if not bad.is_empty():
            row = int(bad[0])
            raise DataError(
                f"{where}: {column} of {frame['model'][row]!r} is {frame[column][row]!r}, "
                "not a number; mend that row or drop it"
            )
        frame = frame.with_columns(number)
    return frame


def _board_of(name: str) -> str:
    """Name of the file, or of its folder where the file is one shard of a Hugging Face subset."""
    path = Path(name)
    return path.parent.name if SHARD.search(path.stem) else path.stem


def _iso_date(text: str, *, where: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise DataError(f"{where}: date is {text!r}; give one like 2025-03-03") from error
