"""Preference pairs straight from votes: battles with texts, and data sets of chosen and rejected.

This is the alternative of the paper's A.5, fine-tuning on what people voted instead of calibrated
scores. Read are the layouts of `charm_rm.data.arena_responses` (55k, 100k and 140k battles), and
rows with ``chosen`` and ``rejected``: two whole conversations, or answers to a ``prompt``. What
makes no pair is counted by its reason, never dropped unsaid.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import polars as pl

from charm_rm.data.arena_responses import is_battles, whole_conversations
from charm_rm.data.battles import battle_outcomes
from charm_rm.data.contamination import find_contaminated
from charm_rm.data.prompts import Message, check_messages, prompt_digest
from charm_rm.data.tables import DataError, read_table, require_columns

Ties = Literal["drop", "both"]
NOT_TEXT = "a turn is not text"
NO_ANSWER = "does not end with an answer on both sides"
OTHER_PROMPT = "the two sides answer different prompts"
SEVERAL_TURNS = "the sides part before the last turn"
EQUAL_ANSWERS = "equal answers"
TIE = "tie"
LANGUAGE = "another language"
REPEATED = "repeated"
_SIDES = ("chosen", "rejected")
_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
SCHEMA: dict[str, Any] = {
    "prompt_id": pl.String,
    "prompt": _MESSAGES,
    "chosen": _MESSAGES,
    "rejected": _MESSAGES,
    "chosen_policy": pl.String,
    "rejected_policy": pl.String,
    "tie": pl.Boolean,
    "language": pl.String,
    "source": pl.String,
}


@dataclass(frozen=True)
class VotePairs:
    """The result of `read_vote_pairs`.

    Attributes:
        frame: Columns ``prompt_id, prompt, chosen, rejected`` (message lists), ``chosen_policy,
            rejected_policy`` (null where unknown), ``tie, language`` (null where unknown),
            ``source`` (the file).
        n_votes: Rows read.
        dropped: Votes that made no pair, by reason.
    """

    frame: pl.DataFrame
    n_votes: int
    dropped: Mapping[str, int]


class _Vote(NamedTuple):
    prompt: list[Message]
    first: list[Message]
    second: list[Message]
    policies: tuple[str | None, str | None]
    outcome: float  # of the first: 1, 0.5 or 0
    prompt_id: str | None
    language: str | None
    source: str


def read_vote_pairs(
    paths: Iterable[str],
    *,
    ties: Ties = "drop",
    several_turns: bool = False,
    languages: Collection[str] = (),
    benchmark: Iterable[str] = (),
) -> VotePairs:
    r"""Preference pairs from votes, one for each vote that prefers one of two answers.

    Args:
        paths: Files that `charm_rm.data.tables.read_table` reads.
        ties: ``"drop"``, or ``"both"``: a tie stands once each way, which in the Bradley-Terry loss
            is a label of one half with the weight of two votes.
        several_turns: Whether conversations count that part before the last turn. Their prompt is
            what both have in common; all that follows on a side is its answer.
        languages: Take votes in these alone (column ``language``); by default in all.
        benchmark: Prompts of benchmarks; pairs whose prompt is among them are dropped, see
            `charm_rm.data.contamination`.

    Returns:
        The pairs, in the order of the votes, and the account of the rest. A vote that repeats an
        earlier one, with the same texts and the same winner, is dropped.

    Raises:
        DataError: If a file can't be read, is of no known layout, has no column ``language`` that
            is asked for, a message is malformed or a winner unknown, or no pair is left.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "votes.jsonl"
        >>> _ = path.write_text('{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}\n')
        >>> read_vote_pairs([str(path)]).frame["chosen"].to_list()
        [[{'role': 'assistant', 'content': 'Hello!'}]]
        >>> folder.cleanup()
    """
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, str, str]] = set()
    rows: list[tuple[Any, ...]] = []
    n_votes = 0
    for name in paths:
        for vote in _read_votes(name, languages=languages):
            n_votes += 1
            if isinstance(vote, str):
                dropped[vote] += 1
                continue
            if reason := _unfit(vote, ties, languages, several_turns=several_turns):
                dropped[reason] += 1
                continue
            pairs = list(_pairs_of(vote, seen))
            dropped[REPEATED] += not pairs
            rows += pairs
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    texts = frame["prompt"].list.eval(pl.element().struct.field("content")).list.join("\n")
    held = pl.Series(find_contaminated(texts.to_list(), benchmark), dtype=pl.String)
    dropped.update(dict(held.drop_nulls().value_counts().iter_rows()))
    frame = frame.filter(held.is_null())
    if frame.is_empty():
        reasons = ", ".join(f"{reason}: {n}" for reason, n in dropped.items() if n)
        raise DataError(f"no pair is left of {n_votes} votes ({reasons or 'the files are empty'})")
    return VotePairs(frame, n_votes, {reason: n for reason, n in dropped.items() if n})


def _unfit(
    vote: _Vote, ties: Ties, languages: Collection[str], *, several_turns: bool
) -> str | None:
    """Why a vote makes no pair; None where it does."""
    if languages and vote.language not in languages:
        return LANGUAGE
    if vote.outcome == 0.5 and ties == "drop":
        return TIE
    if not several_turns and max(len(vote.first), len(vote.second)) > 1:
        return SEVERAL_TURNS
    return EQUAL_ANSWERS if vote.first == vote.second else None


def _pairs_of(vote: _Vote, seen: set[tuple[str, str, str]]) -> Iterator[tuple[Any, ...]]:
    """The vote as pairs: one, or for a tie one each way; none that was there before."""
    digest = prompt_digest(vote.prompt)
    sides = [(vote.first, vote.policies[0]), (vote.second, vote.policies[1])]
    if vote.outcome < 0.5:
        sides.reverse()
    for (chosen, winner), (rejected, loser) in (
        [sides, sides[::-1]] if vote.outcome == 0.5 else [sides]
    ):
        key = (digest, prompt_digest(chosen), prompt_digest(rejected))
        if key not in seen:
            seen.add(key)
            prompt_id = vote.prompt_id or digest
            tie = vote.outcome == 0.5
            yield (prompt_id, vote.prompt, chosen, rejected, winner, loser, tie, *vote[-2:])


def _read_votes(name: str, *, languages: Collection[str]) -> Iterator[_Vote | str]:
    """Every row as a vote, or as the reason why it is none."""
    raw = read_table(name)
    if raw.is_empty():
        raise DataError(f"{name}: no rows; give a file with votes")
    if languages:
        require_columns(raw, ("language",), where=name)
    if is_battles(raw.columns):
        talks: Iterator[Any] = whole_conversations(raw, where=name)
        outcomes = battle_outcomes(raw, where=name).to_list()
        policies = list(raw.select(pl.col("model_a", "model_b").cast(pl.String)).iter_rows())
    elif {"chosen", "rejected"} <= set(raw.columns):
        talks = _preferences(raw, where=name)
        outcomes = [1.0] * len(raw)
        policies = list(zip(*(_texts(raw, f"{side}_policy") for side in _SIDES), strict=True))
    else:
        raise DataError(
            f"{name}: neither battles with texts (model_a, model_b, winner, conversation_a, "
            f"conversation_b) nor chosen and rejected; it has {', '.join(raw.columns)}"
        )
    known = zip(
        talks, policies, outcomes, _texts(raw, "prompt_id"), _texts(raw, "language"), strict=True
    )
    for (first, second), names, outcome, prompt_id, language in known:
        parts = _split(first, second)
        if isinstance(parts, str):
            yield parts
        else:
            yield _Vote(*parts, names, outcome, prompt_id, language, name)


def _texts(raw: pl.DataFrame, column: str) -> list[str | None]:
    if column not in raw.columns:
        return [None] * len(raw)
    return raw[column].cast(pl.String).to_list()


def _preferences(
    raw: pl.DataFrame, *, where: str
) -> Iterator[tuple[list[Message] | None, list[Message] | None]]:
    """Both whole conversations of rows with ``chosen`` and ``rejected``."""
    has_prompt = "prompt" in raw.columns
    columns = [*(["prompt"] if has_prompt else []), *_SIDES]
    for number, row in enumerate(raw.select(columns).iter_rows(), start=1):
        if None in row:
            yield None, None
            continue
        try:
            prompt = check_messages(row[0]) if has_prompt else []
            first, second = (_answer(said, has_prompt=has_prompt) for said in row[-2:])
        except DataError as error:
            raise DataError(f"{where}: row {number}: {error}; mend that row or drop it") from error
        yield [*prompt, *first], [*prompt, *second]


def _answer(said: Any, *, has_prompt: bool) -> list[Message]:
    if isinstance(said, str):
        if not has_prompt:
            raise DataError("chosen is a text and there is no column 'prompt'")
        return [{"role": "assistant", "content": said}]
    return check_messages(said)


def _split(
    first: list[Message] | None, second: list[Message] | None
) -> tuple[list[Message], list[Message], list[Message]] | str:
    """The prompt that both sides answer, and the two answers; or why there are none.

    The prompt is all that both sides have in common, up to its last user turn.
    """
    if first is None or second is None:
        return NOT_TEXT
    for talk in (first, second):
        if not talk or talk[-1]["role"] != "assistant" or not talk[-1]["content"].strip():
            return NO_ANSWER
    n = 0
    while n < min(len(first), len(second)) and first[n] == second[n]:
        n += 1
    while n and first[n - 1]["role"] != "user":
        n -= 1
    if not n:
        return OTHER_PROMPT
    return first[:n], first[n:], second[n:]
