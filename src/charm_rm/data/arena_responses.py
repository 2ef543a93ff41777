"""Responses in Arena battles: two policies' answers to one prompt, with the vote left aside.

Read are arena-human-preference-55k (``prompt, response_a, response_b``: JSON lists of turns) and
100k and 140k (``conversation_a, conversation_b``: lists of messages, whose content may be a list of
parts). From the second turn on the two sides answer different conversations; so of a battle of
several turns the first is taken.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import polars as pl

from charm_rm.data.prompt_sources import mend_text
from charm_rm.data.prompts import Message
from charm_rm.data.tables import DataError

ID_NAMES = ("prompt_id", "question_id", "id")  # the first that a file of battles has
NOT_TEXT = "not only text"
SEVERAL_TURNS = "several turns"


def is_battles(columns: Sequence[str]) -> bool:
    """Whether a table holds battles together with what both sides said.

    Example:
        >>> is_battles(["model_a", "model_b", "winner", "conversation_a", "conversation_b"])
        True
    """
    names = set(columns)
    return {"model_a", "model_b"} <= names and (
        {"conversation_a", "conversation_b"} <= names
        or {"prompt", "response_a", "response_b"} <= names
    )


def first_turns(
    battles: pl.DataFrame, *, where: str
) -> Iterator[tuple[int, str, list[Message] | None, str | None, int]]:
    """Both sides of every battle: what was asked first, and what that side answered.

    Args:
        battles: A table of which `is_battles` is true.
        where: The file, for messages.

    Returns:
        An iterator of row, side (``"a"`` or ``"b"``), prompt (None where it is not text), answer
        (None where there is none), and the number of user turns.

    Raises:
        DataError: If turns are neither texts nor messages.

    Example:
        >>> row = {"model_a": ["x"], "model_b": ["y"], "prompt": ['["Hi"]']}
        >>> row |= {"response_a": ['["Hello"]'], "response_b": ["[null]"]}
        >>> [one[3] for one in first_turns(pl.DataFrame(row), where="battles.csv")]
        ['Hello', None]
    """
    for row, sides in _conversations(battles):
        with _naming(where, row):
            for side, turns in zip("ab", sides(), strict=True):
                yield row, side, *_first_of(turns)


def whole_conversations(
    battles: pl.DataFrame, *, where: str
) -> Iterator[tuple[list[Message] | None, list[Message] | None]]:
    """What was said on both sides of every battle, from the first turn to the last answer.

    Args:
        battles: A table of which `is_battles` is true.
        where: The file, for messages.

    Returns:
        An iterator of the two conversations; None for one with a turn that is not text.

    Raises:
        DataError: If turns are neither texts nor messages.

    Example:
        >>> row = {"model_a": ["x"], "model_b": ["y"], "prompt": ['["Hi"]']}
        >>> row |= {"response_a": ['["Hello"]'], "response_b": ["[null]"]}
        >>> next(whole_conversations(pl.DataFrame(row), where="battles.csv"))[0][1]
        {'role': 'assistant', 'content': 'Hello'}
    """
    for row, sides in _conversations(battles):
        with _naming(where, row):
            first, second = (_as_texts(turns) for turns in sides())
            yield first, second


def _conversations(
    battles: pl.DataFrame,
) -> Iterator[tuple[int, Callable[[], list[list[dict[str, Any]]]]]]:
    """Each row with what reads its two sides, whose faults are then those of that row."""
    whole = "conversation_a" in battles.columns
    spoken = "conversation_{}" if whole else "response_{}"
    names = ("prompt", spoken.format("a"), spoken.format("b"))
    for row, cells in enumerate(battles.select(n for n in names if n in battles.columns).rows()):
        yield row, partial(_sides, cells, whole=whole)


def _sides(cells: tuple[Any, ...], *, whole: bool) -> list[list[dict[str, Any]]]:
    if whole:
        return [_listed(said) for said in cells[-2:]]
    return [_interleaved(_listed(cells[0]), _listed(said)) for said in cells[-2:]]


@contextmanager
def _naming(where: str, row: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{where}: row {row + 1}: not a conversation ({reason}); mend that row or drop it"
        ) from error


def _as_texts(turns: list[dict[str, Any]]) -> list[Message] | None:
    texts = [(turn["role"], _text_of(turn["content"])) for turn in turns]
    if any(text is None for _, text in texts):
        return None
    return [{"role": role, "content": text or ""} for role, text in texts]


def _listed(cell: Any) -> list[Any]:
    """A list of turns, as it stands or as JSON; one text is one turn."""
    if cell is None:
        return []
    if not isinstance(cell, str):
        return list(cell)
    try:
        turns = json.loads(cell)
    except ValueError:
        return [cell]
    return turns if isinstance(turns, list) else [cell]


def _interleaved(asked: list[Any], answered: list[Any]) -> list[dict[str, Any]]:
    turns = []
    for n, question in enumerate(asked):
        turns.append({"role": "user", "content": question})
        if n < len(answered):
            turns.append({"role": "assistant", "content": answered[n]})
    return turns


def _first_of(turns: list[dict[str, Any]]) -> tuple[list[Message] | None, str | None, int]:
    users = [n for n, turn in enumerate(turns) if turn["role"] == "user"]
    if not users:
        return [], None, 0
    end = users[0] + 1
    asked = [(turn["role"], _text_of(turn["content"])) for turn in turns[:end]]
    answer = _text_of(turns[end]["content"]) if len(turns) > end else None
    if any(text is None for _, text in asked):
        return None, answer, len(users)
    return [{"role": role, "content": text or ""} for role, text in asked], answer, len(users)


def _text_of(content: Any) -> str | None:
    """Content as one text; None where it is missing or has parts that are no text."""
    if content is None or isinstance(content, str):
        return None if content is None else mend_text(content)
    kinds = {part.get("type", "text") for part in content}
    texts = [part.get("text") for part in content]
    if kinds - {"text"} or None in texts:
        return None
    return mend_text("".join(texts))
