"""Prompts: what a user says to a policy, as a list of messages, and the id of a prompt.

A prompt ends with the user's last turn; what an assistant said after it is cut off, for policies
are to write it. Text is kept as it stands: it is not trimmed, and no Unicode form is changed. Two
prompts are the same if every role and every character is; the same prompt twice stays two rows
with two ids, unless merging is asked for.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.prompt_ids import give_ids, refuse_clashes
from charm_rm.data.prompt_sources import (
    ROWS_AT_A_TIME,
    expand_folders,
    find_prompts,
    mend_text,
    read_source,
)
from charm_rm.data.tables import (
    DataError,
    refuse_existing,
    require_columns,
    require_plain_columns,
    write_table,
)

Message = dict[str, str]
PROMPT_COLUMNS = ("prompt_id", "prompt", "category", "source")
PROMPT_TYPE = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
ROLES = ("system", "developer", "user", "assistant", "tool")
SUFFIXES = (".parquet", ".jsonl")  # of the writer: a cell of CSV holds no list
# Why a row has no prompt that a policy could answer.
NO_PROMPT = "no prompt"
NO_USER_TURN = "no user turn"
EMPTY = "empty user turn"


@dataclass(frozen=True)
class Prompts:
    """Prompts of some files, and what became of the rows that gave none.

    Attributes:
        frame: Columns ``prompt_id, prompt`` (list of ``{role, content}``), ``category, source``.
        n_rows: Rows that the files hold.
        dropped: Rows without a usable prompt, as ``FILE: row N``, by the reason.
        n_duplicates: Usable rows whose prompt stood in an earlier row already.
        n_merged: How many of those were merged into the earlier row: all or none.
        n_cut: Prompts that were followed by turns of an assistant, which were cut off.
    """

    frame: pl.DataFrame
    n_rows: int
    dropped: Mapping[str, tuple[str, ...]]
    n_duplicates: int
    n_merged: int
    n_cut: int


def as_messages(prompt: str | Sequence[dict[str, Any]]) -> list[Message]:
    """A prompt as messages; a plain string is read as one user turn.

    Args:
        prompt: A string, or messages with ``role`` and ``content``.

    Returns:
        Messages with exactly these two keys.

    Raises:
        DataError: If the prompt is neither, is empty, or a message lacks a key or has no text.

    Example:
        >>> as_messages("Hello")
        [{'role': 'user', 'content': 'Hello'}]
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence) or not prompt:
        raise DataError(f"prompt is {prompt!r}; give a string or a list of messages")
    messages = []
    for message in prompt:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"message {message!r} in a prompt; it needs 'role' and 'content'")
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise DataError(f"message {message!r} in a prompt; 'role' and 'content' must be texts")
        messages.append({"role": message["role"], "content": message["content"]})
    return messages


def prompt_digest(messages: Sequence[Message]) -> str:
    """Id of a prompt that came without one: the same text has the same id everywhere.

    Args:
        messages: As `as_messages` returns them.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of the messages as compact JSON.

    Example:
        >>> prompt_digest(as_messages("Hello"))
        'b0ae8b0f316e2f14'
    """
    pairs = [[message["role"], message["content"]] for message in messages]
    text = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]


def last_user_prompt(messages: Sequence[Message]) -> list[Message]:
    """Messages up to the last user turn: what a policy is to answer.

    Args:
        messages: As `as_messages` returns them.

    Returns:
        The messages without the turns after the last user's; empty where no turn is a user's.

    Example:
        >>> last_user_prompt([*as_messages("Hi"), {"role": "assistant", "content": "Hello"}])
        [{'role': 'user', 'content': 'Hi'}]
    """
    turns = [n for n, message in enumerate(messages) if message["role"] == "user"]
    return list(messages[: turns[-1] + 1]) if turns else []


def check_messages(found: Any) -> list[Message]:
    """Messages in known roles, of text that can be written.

    Args:
        found: A string or a list of messages, as a file has it; the list may be empty.

    Returns:
        Messages with exactly ``role`` and ``content``.

    Raises:
        DataError: If a message is malformed, or of a role that is not in ``ROLES``.

    Example:
        >>> check_messages("Hi")
        [{'role': 'user', 'content': 'Hi'}]
    """
    messages = as_messages(found) if len(found) or isinstance(found, str) else []
    for message in messages:
        if message["role"] not in ROLES:
            raise DataError(
                f"role {message['role']!r} in a prompt; the roles are {', '.join(ROLES)}"
            )
    return [{key: mend_text(text) for key, text in message.items()} for message in messages]


def read_prompts(
    paths: Iterable[str | Path],
    *,
    prompt_column: str | None = None,
    id_column: str = "prompt_id",
    source: str | None = None,
) -> pl.DataFrame:
    r"""One table of prompts, every row of which a policy can answer.

    Args:
        paths: As for `collect_prompts`.
        prompt_column: Likewise.
        id_column: Likewise.
        source: Likewise.

    Returns:
        Columns ``prompt_id, prompt`` (list of ``{role, content}``), ``category, source``.

    Raises:
        DataError: As for `collect_prompts`, and if a row has no usable prompt.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "prompts.jsonl"
        >>> _ = path.write_text('{"prompt": "Hi", "category": "Others"}\n')
        >>> read_prompts([path]).drop("prompt").rows()
        [('8b1450277179b15b', 'Others', 'prompts.jsonl')]
        >>> folder.cleanup()
    """
    prompts = collect_prompts(
        paths, prompt_column=prompt_column, id_column=id_column, source=source
    )
    for reason, rows in prompts.dropped.items():
        raise DataError(
            f"{rows[0]}: {reason} ({sum(map(len, prompts.dropped.values()))} such rows in all); "
            "charm prompts writes a table without them"
        )
    return prompts.frame


def collect_prompts(
    paths: Iterable[str | Path],
    *,
    prompt_column: str | None = None,
    id_column: str = "prompt_id",
    source: str | None = None,
    merge_duplicates: bool = False,
) -> Prompts:
    r"""The usable prompts of any number of files, with an account of every row.

    Args:
        paths: Files and folders, see `charm_rm.data.prompt_sources`.
        prompt_column: Column with the prompts, see `charm_rm.data.prompt_sources.find_prompts`.
        id_column: Column with the ids. Where a file has no ``prompt_id``, the digest is the id,
            and a prompt's second row has ``-2`` after it.
        source: What to write as source of rows that name none; by default the file's name.
        merge_duplicates: Whether to keep one row of each prompt: the first, with the first
            category that any of its rows has.

    Returns:
        The prompts in the order of the files, and the counts.

    Raises:
        DataError: If a file can't be read or is of mixed form, no row is usable, a message is
            malformed or of an unknown role, an id is null, stands for two prompts, or stands
            twice (unless merging).

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "prompts.txt"
        >>> _ = path.write_text("Hi\n \nHi\n")
        >>> prompts = collect_prompts([path])
        >>> prompts.frame["prompt_id"].to_list(), dict(prompts.dropped)
        (['8b1450277179b15b', '8b1450277179b15b-2'], {'empty user turn': ('prompts.txt: row 2',)})
        >>> folder.cleanup()
    """
    names = expand_folders(paths)
    if not names:
        raise DataError("no prompts given; name at least one file")
    account = _Account()
    frames = [
        _read_one(name, account, column=prompt_column, id_column=id_column, source=source)
        for name in names
    ]
    frame = pl.concat(frames)
    if frame.is_empty():
        raise DataError(
            f"{names[0]}: none of {account.n_rows} rows has a usable prompt "
            f"({', '.join(account.dropped)}); check the column"
        )
    repeated = ~frame["digest"].is_first_distinct()
    refuse_clashes(frame)
    if merge_duplicates:
        category = pl.col("category").drop_nulls().first().over("digest")
        frame = frame.with_columns(category).filter(~repeated)
    return Prompts(
        frame=give_ids(frame).select(PROMPT_COLUMNS),
        n_rows=account.n_rows,
        dropped={reason: tuple(rows) for reason, rows in account.dropped.items()},
        n_duplicates=int(repeated.sum()),
        n_merged=int(repeated.sum()) if merge_duplicates else 0,
        n_cut=account.n_cut,
    )


def write_prompts(frame: pl.DataFrame, path: str | Path, *, force: bool = False) -> None:
    """A table of prompts written as Parquet or JSON lines, whole or not at all.

    Args:
        frame: As `read_prompts` gives it.
        path: ``.parquet`` or ``.jsonl``.
        force: Whether an existing file may be replaced.

    Raises:
        DataError: If the suffix is another, the target exists, or it can't be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> write_prompts(pl.DataFrame({"prompt_id": ["p"]}), Path(folder.name) / "p.jsonl")
        >>> folder.cleanup()
    """
    check_output(path, force=force)
    write_table(frame, path, force=force)


def check_output(
    path: str | Path, *, force: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """A path that a table with lists of messages may be written to; checked before the reading.

    Args:
        path: Where it is to go.
        force: Whether an existing file may be replaced.
        inputs: Files that are read, which the output must not replace.

    Raises:
        DataError: If the suffix is not ``.parquet`` or ``.jsonl``, or the path can't be written.

    Example:
        >>> check_output("no-such-file.parquet")
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: prompts are lists of messages; give one of {', '.join(SUFFIXES)}")
    if Path(path).is_dir():
        raise DataError(f"{path}: is a directory; give a file")
    refuse_existing(path, force=force, inputs=inputs)


@dataclass
class _Account:
    """What became of the rows read so far."""

    n_rows: int = 0
    n_cut: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, row: str) -> None:
        self.dropped.setdefault(reason, []).append(row)


def _read_one(
    name: str, account: _Account, *, column: str | None, id_column: str, source: str | None
) -> pl.DataFrame:
    """Usable rows of one file; ``prompt_id`` is null where the file has no ids."""
    raw = read_source(name)
    if id_column != "prompt_id":
        require_columns(raw, (id_column,), where=name)
    require_plain_columns(raw, (id_column, "category", "source"), where=name)
    given = raw.get_column(id_column, default=None)
    nulls = [] if given is None else given.is_null().arg_true().to_list()
    if nulls:
        raise DataError(f"{name}: row {nulls[0] + 1}: {id_column} is null; fill it or drop the row")
    label = Path(name).name
    usable = _usable(raw, account, column=column, where=name)
    chunks = [_chunk([], label)]
    while batch := list(islice(usable, ROWS_AT_A_TIME)):
        chunks.append(_chunk(batch, label))
    account.n_rows += len(raw)
    found = pl.concat(chunks)
    none = pl.Series([None], dtype=pl.String).new_from_index(0, len(raw))
    texts = {
        "category": raw.get_column("category", default=none),
        "source": raw.get_column("source", default=none),
        "prompt_id": none if given is None else given,
    }
    return (
        found.drop("index")
        .with_columns(
            values.gather(found["index"]).cast(pl.String).alias(key)
            for key, values in texts.items()
        )
        .with_columns(pl.col("source").fill_null(label if source is None else source))
    )


def _column(prompts: list[list[Message]]) -> pl.Series:
    """Prompts, none of them empty, as a column; flat first, for lists of records are slow."""
    flat = [(n, m["role"], m["content"]) for n, prompt in enumerate(prompts) for m in prompt]
    schema = {"n": pl.UInt32, "role": pl.String, "content": pl.String}
    turns = pl.DataFrame(flat, schema=schema, orient="row").group_by("n", maintain_order=True)
    return turns.agg(pl.struct("role", "content").alias("prompt"))["prompt"].cast(PROMPT_TYPE)


def _chunk(batch: list[tuple[int, list[Message]]], label: str) -> pl.DataFrame:
    """Rows in a table, which takes a fraction of the memory that they take as objects."""
    return pl.DataFrame(
        {
            "index": pl.Series([row for row, _ in batch], dtype=pl.UInt32),
            "prompt": _column([prompt for _, prompt in batch]),
            "digest": pl.Series([prompt_digest(prompt) for _, prompt in batch], dtype=pl.String),
            "row": pl.Series([f"{label}: row {row + 1}" for row, _ in batch], dtype=pl.String),
        }
    )


def _usable(
    raw: pl.DataFrame, account: _Account, *, column: str | None, where: str
) -> Iterator[tuple[int, list[Message]]]:
    """Row and prompt of the rows that have one; the others go to the account."""
    for row, found in enumerate(find_prompts(raw, column=column, where=where)):
        try:
            messages = None if found is None else check_messages(found)
        except DataError as error:
            raise DataError(f"{where}: row {row + 1}: {error}") from error
        prompt = last_user_prompt(messages or [])
        if prompt and prompt[-1]["content"].strip():
            account.n_cut += len(prompt) < len(messages or [])
            yield row, prompt
        else:
            reason = EMPTY if prompt else NO_PROMPT if messages is None else NO_USER_TURN
            account.drop(reason, f"{Path(where).name}: row {row + 1}")
