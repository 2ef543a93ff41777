"""Style of the responses in battles: length, and markdown headers, lists and bold.

Counts come with the 100k and 140k releases (``conv_metadata``, length in tokens); in responses as
text they are those of `charm_rm.data.style_patterns` (length in characters), which are made as the
releases' are: code blocks left out of the markdown counts.
"""

import json
from collections.abc import Sequence
from typing import TypeGuard

import polars as pl

from charm_rm.data.prompt_sources import mend_text
from charm_rm.data.style_patterns import LENGTH, count_patterns, read_patterns
from charm_rm.data.tables import DataError

STYLE = {
    "length": "sum_assistant_{}_tokens",
    "headers": "header_count_{}",
    "lists": "list_count_{}",
    "bold": "bold_count_{}",
}
PATTERNS = {"headers": "header", "lists": "list", "bold": "bold"}  # names in style_patterns.csv


def style_columns() -> list[str]:
    """Names of the columns that `count_style` makes.

    Example:
        >>> style_columns()[:3]
        ['length_a', 'length_b', 'headers_a']
    """
    return [f"{feature}_{side}" for feature in STYLE for side in "ab"]


def count_style(battles: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Style counts of both responses of each battle.

    Args:
        battles: With ``conv_metadata`` (a record of counts), or with ``response_a`` and
            ``response_b`` (a JSON list of turns, a list of turns, or one text).
        where: The file it came from, for the message.

    Returns:
        The columns of `style_columns`, one row per battle.

    Raises:
        DataError: If there is neither, a count is missing, or a response is missing or no text.

    Example:
        >>> rows = pl.DataFrame({"response_a": ["**Hi**"], "response_b": ['["- x", "- y"]']})
        >>> count_style(rows, where="battles.csv").row(0)
        (6, 7, 0, 0, 0, 2, 1, 0)
    """
    if isinstance(battles.schema.get("conv_metadata"), pl.Struct):
        counts = _from_metadata(battles["conv_metadata"], where=where)
    elif {"response_a", "response_b"} <= set(battles.columns):
        counts = _from_responses(battles, where=where)
    else:
        raise DataError(
            f"{where}: no style to count: neither records in 'conv_metadata' nor columns "
            f"'response_a' and 'response_b'; it has {', '.join(battles.columns)}"
        )
    unknown = counts.select(pl.any_horizontal(pl.all().is_null())).to_series().arg_true()
    if not unknown.is_empty():
        row = int(unknown[0])
        missing = [column for column in counts.columns if counts[column][row] is None]
        raise DataError(
            f"{where}: row {row + 1}: {', '.join(missing)} not known; mend that row or drop it"
        )
    return counts


def _from_metadata(metadata: pl.Series, *, where: str) -> pl.DataFrame:
    records = metadata.struct.unnest()
    counts = {}
    for column in style_columns():
        feature, side = column.rsplit("_", 1)
        field = STYLE[feature].format(side)
        if field not in records.columns:
            raise DataError(f"{where}: 'conv_metadata' has no {field!r}, which style control needs")
        values = records[field]
        if isinstance(values.dtype, pl.Struct):  # by level of header, kind of list, kind of bold
            known = values.is_not_null()
            total = values.struct.unnest().select(pl.sum_horizontal(pl.all())).to_series()
            values = pl.select(pl.when(known).then(total)).to_series()
        counts[column] = values
    return pl.DataFrame(counts)


def _from_responses(battles: pl.DataFrame, *, where: str) -> pl.DataFrame:
    patterns = [one for one in read_patterns() if one.name in PATTERNS.values()]
    sides = {}
    for side in "ab":
        responses = battles[f"response_{side}"].to_list()
        for row, response in enumerate(responses):
            if not (response is None or isinstance(response, str) or _are_texts(response)):
                raise DataError(
                    f"{where}: row {row + 1}: response_{side} is {str(response)[:60]!r}; give a "
                    "text, or a list of the texts of its turns"
                )
        texts = pl.Series([_text(response) for response in responses], dtype=pl.String)
        sides[side] = count_patterns(texts, patterns)
    return pl.DataFrame(
        {
            f"{feature}_{side}": sides[side][PATTERNS.get(feature, LENGTH)]
            for feature in STYLE
            for side in "ab"
        }
    )


def _text(response: str | Sequence[str | None] | None) -> str | None:
    if response is None:
        return None
    return mend_text("\n".join(turn for turn in _turns(response) if turn))


def _turns(response: str | Sequence[str | None]) -> Sequence[str | None]:
    if not isinstance(response, str):
        return response
    try:
        turns = json.loads(response)
    except ValueError:
        return [response]
    return turns if _are_texts(turns) else [response]


def _are_texts(turns: object) -> TypeGuard[list[str | None]]:
    return isinstance(turns, list) and all(isinstance(turn, str | None) for turn in turns)
