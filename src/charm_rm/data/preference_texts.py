"""The texts of preference pairs, in the layouts that trainers read.

TRL with an explicit prompt (``prompt, chosen, rejected``) or an implicit one (``chosen, rejected``
are whole conversations), OpenRLHF, and alignment-handbook (``prompt`` is a text, ``chosen`` and
``rejected`` are whole conversations). Responses are texts or lists of messages. Of conversations,
the response is what the assistant says after the turns that both sides share.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.prompt_sources import shared_turns
from charm_rm.data.prompts import Message, as_messages, prompt_digest
from charm_rm.data.responses import prompt_table, refuse_nulls
from charm_rm.data.tables import DataError, read_table, require_columns

SIDES = ("chosen", "rejected")
PROMPTS = ("prompt", "instruction")


def read_preference_texts(paths: Iterable[str | Path]) -> pl.DataFrame:
    r"""Prompt, chosen and rejected response of each pair.

    Args:
        paths: Files that `charm_rm.data.tables.read_table` reads.

    Returns:
        Columns ``prompt_id, chosen, rejected`` (texts), and ``flipped``: whether a calibration
        turned the pair round, as `charm_rm.pairs.build_pairs` writes it, null where the file does
        not say. The prompt is known by ``prompt_id``, else by the digest of ``prompt`` or of the
        shared turns; pairs of texts without either are each of a prompt of their own. A prompt
        that both texts begin with is taken off.

    Raises:
        DataError: If a file can't be read, holds no rows or no texts, or a row has no response, or
            a conversation in which the assistant says nothing.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "pairs.jsonl"
        >>> _ = path.write_text('{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}\n')
        >>> read_preference_texts([path]).select("chosen", "rejected", "flipped").row(0)
        ('Hello', 'No', None)
        >>> folder.cleanup()
    """
    names = [str(path) for path in paths]
    if not names:
        raise DataError("no preference pairs given; name at least one file")
    return pl.concat([_read_one(name) for name in names])


def _read_one(name: str) -> pl.DataFrame:
    raw = read_table(name)
    if "chosen_policy" in raw.columns and "chosen" not in raw.columns:
        raise DataError(
            f"{name}: ids and policies, no texts; make the pairs with charm pairs --responses"
        )
    require_columns(raw, SIDES, where=name)
    if raw.is_empty():
        raise DataError(f"{name}: no rows; give a file with preference pairs")
    kinds = {isinstance(raw.schema[side], pl.List) for side in SIDES}
    readable = all(_readable(raw.schema[side]) for side in SIDES)
    if len(kinds) > 1 or not readable:
        raise DataError(
            f"{name}: chosen holds {raw.schema['chosen']}, rejected {raw.schema['rejected']}; give "
            "texts, or lists of messages with 'role' and 'content', on both sides"
        )
    read = _conversations if kinds == {True} else _texts
    ids, chosen, rejected = read(raw, where=name)
    return pl.DataFrame(
        {"prompt_id": ids, "chosen": chosen, "rejected": rejected, "flipped": _flips(raw, name)},
        schema={**dict.fromkeys(("prompt_id", *SIDES), pl.String), "flipped": pl.Boolean},
    )


def _readable(kind: pl.DataType) -> bool:
    if not isinstance(kind, pl.List):
        return kind == pl.String
    message = kind.inner
    names = {field.name for field in message.fields} if isinstance(message, pl.Struct) else set()
    return {"role", "content"} <= names


def _flips(raw: pl.DataFrame, where: str) -> pl.Series:
    if "flipped" not in raw.columns:
        return pl.Series([None] * len(raw), dtype=pl.Boolean)
    if raw.schema["flipped"] != pl.Boolean:
        raise DataError(
            f"{where}: column 'flipped' holds {raw.schema['flipped']}; give true, false"
        )
    return raw["flipped"]


Columns = tuple[Sequence[str], list[str], list[str]]


def _texts(raw: pl.DataFrame, *, where: str) -> Columns:
    for side in SIDES:
        refuse_nulls(raw, side, where=where)
    begins = raw["prompt"].to_list() if raw.schema.get("prompt") == pl.String else []
    chosen, rejected = raw["chosen"].to_list(), raw["rejected"].to_list()
    for row, prompt in enumerate(begins):
        if prompt and chosen[row].startswith(prompt) and rejected[row].startswith(prompt):
            chosen[row] = chosen[row][len(prompt) :]
            rejected[row] = rejected[row][len(prompt) :]
    ids = _given_ids(raw, where=where)
    return ids or [f"{where}: row {row + 1}" for row in range(len(raw))], chosen, rejected


def _conversations(raw: pl.DataFrame, *, where: str) -> Columns:
    ids, chosen, rejected = [], [], []
    for row, (one, other) in enumerate(raw.select(SIDES).iter_rows()):
        place = f"{where}: row {row + 1}"
        ours, theirs = _messages(one, "chosen", place), _messages(other, "rejected", place)
        shared = shared_turns(ours, theirs) or []  # but the last of either is a response
        n_shared = min(len(shared), len(ours) - 1, len(theirs) - 1)
        ids.append(prompt_digest(ours[:n_shared]) if n_shared else place)
        chosen.append(_said(ours[n_shared:], "chosen", where=place))
        rejected.append(_said(theirs[n_shared:], "rejected", where=place))
    return _given_ids(raw, where=where) or ids, chosen, rejected


def _messages(turns: Any, side: str, where: str) -> list[Message]:
    if not turns:
        what = "null" if turns is None else "empty"
        raise DataError(f"{where}: {side} is {what}; fill it or drop the row")
    try:
        return as_messages(turns)
    except DataError as error:
        raise DataError(f"{where}: {side}: {error}") from error


def _said(turns: list[Message], side: str, *, where: str) -> str:
    said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    if not said:
        raise DataError(
            f"{where}: the assistant says nothing in {side} after what both sides share; mend that "
            "row or drop it"
        )
    return "\n".join(said)


def _given_ids(raw: pl.DataFrame, *, where: str) -> list[str]:
    """Ids of the prompts that a file has; none where it has neither ids nor prompts."""
    prompt = next((name for name in PROMPTS if name in raw.columns), None)
    if "prompt_id" in raw.columns:
        refuse_nulls(raw, "prompt_id", where=where)
        return raw["prompt_id"].cast(pl.String).to_list()
    if prompt is None:
        return []
    named = raw.select(pl.col(prompt).alias("prompt"))
    return prompt_table(named, where=where)["prompt_id"].to_list()
