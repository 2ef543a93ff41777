"""Style of the responses in battles: length, and markdown headers, lists and bold.

Counts come with the 100k and 140k releases (``conv_metadata``, length in tokens); for responses as
text they are made here (length in characters), code blocks left out of the markdown counts.
"""

import json
import re
from collections.abc import Sequence
from typing import TypeGuard

import polars as pl

from charm_rm.data.tables import DataError

STYLE = {
    "length": "sum_assistant_{}_tokens",
    "headers": "header_count_{}",
    "lists": "list_count_{}",
    "bold": "bold_count_{}",
}
CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
MARKDOWN = {
    "headers": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "lists": re.compile(r"^\s*(?:[-*+]|\d+\.)\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}


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
    sides = {}
    for side in "ab":
        responses = battles[f"response_{side}"].to_list()
        for row, response in enumerate(responses):
            if not (response is None or isinstance(response, str) or _are_texts(response)):
                raise DataError(
                    f"{where}: row {row + 1}: response_{side} is {str(response)[:60]!r}; give a "
                    "text, or a list of the texts of its turns"
                )
        sides[side] = [_count(response) for response in responses]
    return pl.DataFrame(
        {
            f"{feature}_{side}": [None if row is None else row[feature] for row in sides[side]]
            for feature in STYLE
            for side in "ab"
        },
        schema=dict.fromkeys(style_columns(), pl.Int64),
    )


def _count(response: str | Sequence[str | None] | None) -> dict[str, int] | None:
    if response is None:
        return None
    text = "\n".join(turn for turn in _turns(response) if turn)
    prose = CODE.sub("", text)
    found = {feature: len(pattern.findall(prose)) for feature, pattern in MARKDOWN.items()}
    return {"length": len(text), **found}


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
