"""Responses: what policies wrote to prompts, in the layouts that people have them.

Read are this project's own columns, AlpacaEval's ``model_outputs.json`` (``instruction, output,
generator``), and tables that call the policy ``model`` and the response ``output``. Rows are joined
on the prompt's id, never on their position.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.prompts import Message, as_messages, prompt_digest
from charm_rm.data.tables import (
    DataError,
    read_table,
    require_columns,
    require_number_columns,
    require_plain_columns,
)

RESPONSE_COLUMNS = ("prompt_id", "prompt", "policy", "sample", "response", "finish_reason")
ALIASES = {
    "prompt": ("prompt", "instruction", "messages"),
    "policy": ("policy", "generator", "model"),
    "response": ("response", "output"),
}
_PROMPT = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


def read_responses(paths: Iterable[str | Path]) -> pl.DataFrame:
    """One table of responses from any number of files.

    Args:
        paths: Files that `charm_rm.data.tables.read_table` reads. A column ``prompt_id`` is kept;
            without one, the id is the digest of the prompt.

    Returns:
        Columns ``prompt_id, prompt`` (list of ``{role, content}``), ``policy, sample, response,
        finish_reason`` and, where all files have it, ``category``; one row per response, in the
        order of the files.

    Raises:
        DataError: If a file can't be read, lacks a column, holds no rows, has a null policy or
            response, repeats a (prompt_id, policy, sample), or gives one id to two prompts.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "model_outputs.json"
        >>> _ = path.write_text('[{"instruction": "Hi", "output": "Hello", "generator": "m"}]')
        >>> read_responses([path]).select("policy", "response").rows()
        [('m', 'Hello')]
        >>> folder.cleanup()
    """
    names = [str(path) for path in paths]
    if not names:
        raise DataError("no responses given; name at least one file")
    frames = [_read_one(name) for name in names]
    shared = [column for column in frames[0].columns if all(column in f for f in frames)]
    frame = pl.concat([one.select(shared) for one in frames])
    where = names[0] if len(names) == 1 else "responses"
    _refuse_repeats(frame, where=where)
    return frame


def conversation(row: dict[str, Any]) -> list[Message]:
    """The messages that a reward model scores: the prompt and then the response.

    Args:
        row: One row of `read_responses`, as a dictionary.

    Returns:
        Messages that end with the assistant's.

    Example:
        >>> conversation({"prompt": as_messages("Hi"), "response": "Hello"})[-1]
        {'role': 'assistant', 'content': 'Hello'}
    """
    return [*row["prompt"], {"role": "assistant", "content": row["response"]}]


def prompt_table(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """Ids and messages, row by row; each distinct prompt is parsed and digested once.

    Args:
        frame: With a column ``prompt``, of strings or of lists of messages, and perhaps
            ``prompt_id``; without it, the id is the digest of the prompt.
        where: The file it came from, for messages.

    Returns:
        Columns ``prompt_id`` and ``prompt`` (list of ``{role, content}``).

    Raises:
        DataError: If a prompt is no prompt, or an id is null.

    Example:
        >>> prompt_table(pl.DataFrame({"prompt": ["Hello"]}), where="a.csv")["prompt_id"][0]
        'b0ae8b0f316e2f14'
    """
    messages: dict[Any, list[Message]] = {}
    ids: dict[Any, str] = {}
    keys = []
    for row, prompt in enumerate(frame["prompt"]):
        if isinstance(prompt, str) and prompt.startswith('[{"role"'):
            raise DataError(
                f"{where}: row {row + 1}: the prompt is a list of messages written as text; "
                "give it as a list, in Parquet or JSON lines"
            )
        key = prompt if isinstance(prompt, str) else repr(_listed(prompt))
        if key not in messages:
            try:
                messages[key] = as_messages(_listed(prompt))
            except DataError as error:
                raise DataError(f"{where}: row {row + 1}: {error}") from error
            ids[key] = prompt_digest(messages[key])
        keys.append(key)
    prompts = pl.Series("prompt", [messages[key] for key in keys], dtype=_PROMPT)
    if "prompt_id" in frame.columns:
        refuse_nulls(frame, "prompt_id", where=where)
        given = frame["prompt_id"].cast(pl.String)
    else:
        given = pl.Series("prompt_id", [ids[key] for key in keys], dtype=pl.String)
    return pl.DataFrame([given, prompts])


def _read_one(name: str) -> pl.DataFrame:
    raw = read_table(name)
    frame = raw.rename(_renames(raw.columns))
    require_columns(frame, ALIASES, where=name)
    if frame.is_empty():
        raise DataError(f"{name}: no rows; give a file with responses")
    plain = ("prompt_id", "policy", "response", "finish_reason", "category")
    require_plain_columns(frame, plain, where=name)
    require_number_columns(frame, ("sample",), where=name)
    for column in ("policy", "response"):
        refuse_nulls(frame, column, where=name)
    prompts = prompt_table(frame, where=name)
    sample = pl.col("sample") if "sample" in frame.columns else pl.lit(0)
    reason = pl.col("finish_reason") if "finish_reason" in frame.columns else pl.lit(None)
    columns = [
        prompts["prompt_id"],
        prompts["prompt"],
        pl.col("policy").cast(pl.String),
        sample.cast(pl.Int64).alias("sample"),
        pl.col("response").cast(pl.String),
        reason.cast(pl.String).alias("finish_reason"),
    ]
    if "category" in frame.columns:
        columns.append(pl.col("category").cast(pl.String))
    return frame.select(columns)


def _renames(columns: Sequence[str]) -> dict[str, str]:
    """The file's own names for our columns, the first alias that it has."""
    found = {}
    for ours, aliases in ALIASES.items():
        theirs = next((alias for alias in aliases if alias in columns), ours)
        if theirs in columns and theirs != ours:
            found[theirs] = ours
    return found


def _listed(prompt: Any) -> Any:
    return prompt.to_list() if isinstance(prompt, pl.Series) else prompt


def _refuse_repeats(frame: pl.DataFrame, *, where: str) -> None:
    texts = frame.group_by("prompt_id").agg(pl.col("prompt").n_unique().alias("n"))
    clash = texts.filter(pl.col("n") > 1).sort("prompt_id")
    if not clash.is_empty():
        raise DataError(
            f"{where}: prompt_id {clash['prompt_id'][0]!r} stands for {clash['n'][0]} different "
            "prompts; give each prompt an id of its own"
        )
    repeat_free(frame, where=where)


def refuse_nulls(frame: pl.DataFrame, column: str, *, where: str) -> None:
    """A column without nulls, or one line that names the first.

    Args:
        frame: Any table.
        column: Its column.
        where: The file, for the message.

    Raises:
        DataError: If a value is null.

    Example:
        >>> refuse_nulls(pl.DataFrame({"policy": ["a"]}), "policy", where="responses.jsonl")
    """
    row = frame[column].is_null().arg_max()
    if row is not None and frame[column][row] is None:
        raise DataError(f"{where}: row {row + 1}: {column} is null; fill it or drop the row")


def repeat_free(frame: pl.DataFrame, *, where: str) -> None:
    """A table with one row per (prompt_id, policy, sample), or one line that names a repeat.

    Args:
        frame: Responses or scores.
        where: The file, for the message.

    Raises:
        DataError: If a key stands twice.

    Example:
        >>> row = {"prompt_id": ["p"], "policy": ["a"], "sample": [0]}
        >>> repeat_free(pl.DataFrame(row), where="responses.jsonl")
    """
    key = ["prompt_id", "policy", "sample"]
    repeated = frame.filter(frame.select(key).is_duplicated())
    if not repeated.is_empty():
        prompt_id, policy, sample = repeated.select(key).row(0)
        raise DataError(
            f"{where}: prompt {prompt_id!r}, policy {policy!r}, sample {sample} stands more than "
            "once; keep one row, or number the samples"
        )
