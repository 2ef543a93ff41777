"""Responses in any layout, imported into one table with an account of every row.

Read are folders of AlpacaEval's ``model_outputs.json``, Arena battles (see
`charm_rm.data.arena_responses`), and tables whose columns one names. Rows are joined on the prompt,
never on their position. Unlike `charm_rm.data.responses`, which refuses a table that is not in
order, this module takes what can be used and says what it left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.arena_responses import (
    ID_NAMES,
    NOT_TEXT,
    SEVERAL_TURNS,
    first_turns,
    is_battles,
)
from charm_rm.data.prompt_ids import refuse_clashes
from charm_rm.data.prompt_sources import PROMPT_NAMES, expand_folders, find_prompts, mend_text
from charm_rm.data.prompts import (
    EMPTY,
    NO_PROMPT,
    NO_USER_TURN,
    PROMPT_TYPE,
    Message,
    check_messages,
    last_user_prompt,
    prompt_digest,
)
from charm_rm.data.reasoning import split_reasoning
from charm_rm.data.response_order import number_samples, reordered_policies
from charm_rm.data.responses import ALIASES, RESPONSE_COLUMNS
from charm_rm.data.tables import (
    DataError,
    read_table,
    require_columns,
    require_plain_columns,
)

ALPACA_FILE = "model_outputs.json"
COLUMNS = (*RESPONSE_COLUMNS, "reasoning", "category")
NAMED = ("prompt", "response", "policy", "prompt_id")  # columns that one may name
REASONING_NAMES = ("reasoning", "reasoning_content")
NO_RESPONSE = "no response"
OTHER_PROMPT = "not among the prompts"
_TEXTS = ("prompt_id", "digest", "row", "policy", "response", "finish_reason", "reasoning")
_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((*_TEXTS, "category"), pl.String()),
    "prompt": PROMPT_TYPE,
    "sample": pl.Int64(),
}


@dataclass(frozen=True)
class ImportedResponses:
    """Responses of some files, and what became of the rows that gave none.

    Attributes:
        frame: Columns ``prompt_id, prompt, policy, sample, response, finish_reason, reasoning,
            category``.
        n_rows: Responses that the files hold; a battle holds two.
        dropped: Rows left out, as ``FILE: row N``, by the reason.
        n_numbered: Rows of a prompt and policy that had a row before, numbered as samples.
        n_later_turns: Responses whose battle goes on after the first turn, which alone is taken.
        reordered: Policies that have the prompts in another order than most.
    """

    frame: pl.DataFrame
    n_rows: int
    dropped: Mapping[str, tuple[str, ...]]
    n_numbered: int
    n_later_turns: int
    reordered: tuple[str, ...]


def import_responses(
    paths: Iterable[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    policy: str | None = None,
    prompts: pl.DataFrame | None = None,
    single_turn: bool = False,
) -> ImportedResponses:
    """One table of responses from files and folders in any of the known layouts.

    Args:
        paths: Folders of AlpacaEval outputs, Arena battles, or other tables with prompts and
            responses; ``messages`` that end with an assistant's turn hold both.
        columns: The files' names of ``prompt``, ``response``, ``policy`` and ``prompt_id``, where
            they are not the usual ones.
        policy: The policy that wrote all of it, whatever the files say.
        prompts: Prompts as `charm_rm.data.prompts.read_prompts` gives them, to take ids and
            categories from, joined on the text; responses to other prompts are left out.
        single_turn: Whether to leave out battles of several turns; else their first turn is taken.

    Returns:
        The responses in the order of the files, and the counts.

    Raises:
        DataError: If a file can't be read, lacks a column, or names no policy; if nothing is left;
            if an id stands for two prompts; or if the files' own sample numbers repeat.
        ValueError: If ``columns`` names something else than these four.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "answers.jsonl"
        >>> _ = path.write_text('{"question": "2 + 2?", "answer": "<think>Add.</think>4"}')
        >>> named = {"prompt": "question", "response": "answer"}
        >>> found = import_responses([path], columns=named, policy="m").frame
        >>> found.select("policy", "response", "reasoning").rows()
        [('m', '4', 'Add.')]
        >>> folder.cleanup()
    """
    names = [name for path in paths for name in _expanded(path)]
    if not names:
        raise DataError("no responses given; name at least one file or folder")
    account = _Account(single_turn=single_turn)
    named = columns or {}
    unknown = sorted(named.keys() - set(NAMED))
    if unknown:
        raise ValueError(f"columns has {unknown[0]!r}; it takes {', '.join(NAMED)}")
    frames = [_read_one(name, account, columns=named, policy=policy) for name in names]
    frame = pl.concat(frames)
    refuse_clashes(frame)
    frame = frame.with_columns(pl.col("prompt_id").fill_null(pl.col("digest")))
    if prompts is not None:
        frame = _joined(frame, prompts, account)
    if frame.is_empty():
        raise DataError(
            f"{names[0]}: none of {account.n_rows} rows is left ({', '.join(account.dropped)}); "
            "check the columns"
        )
    reordered = reordered_policies(frame)
    frame, n_numbered = number_samples(frame)
    return ImportedResponses(
        frame=frame.select(COLUMNS),
        n_rows=account.n_rows,
        dropped={reason: tuple(rows) for reason, rows in account.dropped.items()},
        n_numbered=n_numbered,
        n_later_turns=account.n_later_turns,
        reordered=reordered,
    )


@dataclass
class _Account:
    """What became of the rows read so far."""

    single_turn: bool
    n_rows: int = 0
    n_later_turns: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, row: str) -> None:
        self.dropped.setdefault(reason, []).append(row)


def _expanded(path: str | Path) -> list[str]:
    folder = Path(path)
    alpaca = sorted(folder.rglob(ALPACA_FILE)) if folder.is_dir() else []
    return [str(file) for file in alpaca] or expand_folders([path])


def _read_one(
    name: str, account: _Account, *, columns: Mapping[str, str], policy: str | None
) -> pl.DataFrame:
    raw = read_table(name)
    if raw.is_empty():
        raise DataError(f"{name}: no rows; give a file with responses")
    require_columns(raw, columns.values(), where=name)
    own = [columns[one] for one in ("policy", "prompt_id") if one in columns]
    plain = ("sample", "finish_reason", "category", *REASONING_NAMES, "model_a", "model_b")
    require_plain_columns(raw, (*own, "prompt_id", *plain), where=name)
    battles = is_battles(raw.columns) and not columns.keys() - {"prompt_id"}
    id_names = ID_NAMES if battles else ("prompt_id",)
    ids = columns.get("prompt_id") or next((one for one in id_names if one in raw.columns), None)
    if ids and raw[ids].null_count():
        row = int(raw[ids].is_null().arg_true()[0])
        raise DataError(f"{name}: row {row + 1}: {ids} is null; fill it or drop the row")
    if battles:
        found = _from_battles(raw, account, policy=policy, where=name)
    else:
        found = _from_table(raw, account, columns=columns, policy=policy, where=name)
    rows = []
    given = None if ids is None else raw[ids].cast(pl.String).to_list()
    for row, record in found:
        reasoning, response = split_reasoning(mend_text(record["response"]))
        known = record.get("reasoning")
        parts = [text for text in (known, reasoning) if text is not None]
        rows.append(
            {
                **record,
                "prompt_id": None if given is None else given[row],
                "digest": prompt_digest(record["prompt"]),
                "row": f"{_label(name)}: row {row + 1}",
                "response": response,
                "reasoning": "\n\n".join(parts) if parts else None,
            }
        )
    return pl.DataFrame(rows, schema=_SCHEMA)


def _label(name: str) -> str:
    """The file as messages name it; AlpacaEval's, which all have one name, with the folder."""
    path = Path(name)
    return f"{path.parent.name}/{path.name}" if path.name == ALPACA_FILE else path.name


def _from_table(
    raw: pl.DataFrame,
    account: _Account,
    *,
    columns: Mapping[str, str],
    policy: str | None,
    where: str,
) -> Iterator[tuple[int, dict[str, Any]]]:
    prompt = columns.get("prompt") or next((n for n in PROMPT_NAMES if n in raw.columns), None)
    answers = _column(raw, columns.get("response"), ALIASES["response"], where=where)
    if answers is None and not isinstance(raw.schema.get(prompt or ""), pl.List | pl.String):
        raise DataError(
            f"{where}: no column of responses ({', '.join(map(repr, ALIASES['response']))}); "
            f"it has {', '.join(raw.columns)}; name it with --response-column"
        )
    policies = _policies(raw, columns.get("policy"), policy, where=where)
    extra = {
        "sample": _optional(raw, "sample", pl.Int64, where=where),
        "finish_reason": _optional(raw, "finish_reason", pl.String, where=where),
        "category": _optional(raw, "category", pl.String, where=where),
        "reasoning": _optional(
            raw,
            next((one for one in REASONING_NAMES if one in raw.columns), "reasoning"),
            pl.String,
            where=where,
        ),
    }
    account.n_rows += len(raw)
    for row, found in enumerate(find_prompts(raw, column=prompt, where=where)):
        try:
            messages = None if found is None else check_messages(found)
            answer = _answer(messages or [], None if answers is None else [answers[row]])
        except DataError as error:
            raise DataError(f"{where}: row {row + 1}: {error}") from error
        asked = last_user_prompt(messages) if messages is not None else None
        reason = _unusable(asked) or (NO_RESPONSE if answer is None else None)
        if reason:
            account.drop(reason, f"{_label(where)}: row {row + 1}")
            continue
        record = {key: values[row] for key, values in extra.items()}
        yield row, {**record, "prompt": asked, "policy": policies[row], "response": answer}


def _from_battles(
    raw: pl.DataFrame, account: _Account, *, policy: str | None, where: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    if policy is not None:
        raise DataError(f"{where}: battles are of two policies; leave --policy out")
    models = {side: _policies(raw, f"model_{side}", None, where=where) for side in "ab"}
    account.n_rows += 2 * len(raw)
    for row, side, asked, answer, n_turns in first_turns(raw, where=where):
        reason = NOT_TEXT if asked is None else _unusable(asked)
        if not reason and n_turns > 1 and account.single_turn:
            reason = SEVERAL_TURNS
        if not reason and answer is None:
            reason = NO_RESPONSE
        if reason:
            account.drop(reason, f"{_label(where)}: row {row + 1}")
            continue
        account.n_later_turns += n_turns > 1
        yield row, {"prompt": asked, "policy": models[side][row], "response": answer}


def _unusable(asked: list[Message] | None) -> str | None:
    if asked is None:
        return NO_PROMPT
    if not asked:
        return NO_USER_TURN
    return None if asked[-1]["content"].strip() else EMPTY


def _answer(messages: list[Message], cell: list[Any] | None) -> str | None:
    """The response: a text, the last turn of a list of messages, or what follows the prompt."""
    if cell is None:
        last = messages[-1] if messages else {"role": "user"}
        return last["content"] if last["role"] == "assistant" else None
    (answer,) = cell
    if answer is None or isinstance(answer, str):
        return answer
    turns = check_messages(answer.to_list() if isinstance(answer, pl.Series) else answer)
    return turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else None


def _column(
    raw: pl.DataFrame, named: str | None, usual: tuple[str, ...], *, where: str
) -> pl.Series | None:
    name = named or next((one for one in usual if one in raw.columns), None)
    if name is None:
        return None
    values = raw[name]
    if values.dtype not in (pl.String, pl.Null) and not isinstance(values.dtype, pl.List):
        raise DataError(f"{where}: column {name!r} holds {values.dtype}, no texts; name another")
    return values


def _policies(
    raw: pl.DataFrame, column: str | None, policy: str | None, *, where: str
) -> list[str]:
    if policy is not None:
        return [policy] * len(raw)
    name = column or next((one for one in ALIASES["policy"] if one in raw.columns), None)
    if name is None:
        raise DataError(
            f"{where}: no column of policies ({', '.join(map(repr, ALIASES['policy']))}); "
            f"it has {', '.join(raw.columns)}; give --policy NAME or --policy-column"
        )
    names = raw[name].cast(pl.String)
    missing = (names.is_null() | (names.str.strip_chars() == "")).arg_true()
    if not missing.is_empty():
        raise DataError(
            f"{where}: row {int(missing[0]) + 1}: {name} is empty; fill it or drop the row"
        )
    return names.to_list()


def _optional(raw: pl.DataFrame, column: str, kind: type[pl.DataType], *, where: str) -> list[Any]:
    if column not in raw.columns:
        return [None] * len(raw)
    try:
        return raw[column].cast(kind).to_list()
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{where}: column {column!r} holds {raw.schema[column]}, of which some is no "
            f"{kind.__name__}; mend or drop it"
        ) from error


def _joined(frame: pl.DataFrame, prompts: pl.DataFrame, account: _Account) -> pl.DataFrame:
    """Ids and categories of the prompts, for responses to the same text."""
    known: dict[str, tuple[str, str | None]] = {}
    for prompt_id, messages, category in prompts.select(
        "prompt_id", "prompt", "category"
    ).iter_rows():
        known.setdefault(prompt_digest(messages), (prompt_id, category))
    found = [known.get(digest) for digest in frame["digest"]]
    for row, match in zip(frame["row"], found, strict=True):
        if match is None:
            account.drop(OTHER_PROMPT, row)
    ids = pl.Series("prompt_id", [m[0] if m else None for m in found], dtype=pl.String)
    theirs = pl.Series("theirs", [m[1] if m else None for m in found], dtype=pl.String)
    category = pl.coalesce(theirs, "category").alias("category")
    return frame.with_columns(ids, category).filter(ids.is_not_null())
