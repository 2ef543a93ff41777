"""Where prompts stand in the files that people have: columns of texts, messages or conversations.

Found are plain strings (a column, a text file with a prompt a line, a JSON list of strings), lists
of messages (nested, or as JSON text where a CSV file holds them), and the prompt of preference rows
whose ``chosen`` and ``rejected`` are whole conversations. A file in two of these forms at once is
refused with its rows; nothing is guessed row by row.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.tables import DataError, read_table, require_columns

PROMPT_NAMES = ("prompt", "instruction", "messages", "conversation")  # the first there is read
PREFERENCE_NAMES = ("chosen", "rejected")
ROWS_AT_A_TIME = 10_000  # turned into Python objects: a bound on memory
_SURROGATE = re.compile("[\ud800-\udfff]")


def expand_folders(paths: Iterable[str | Path]) -> list[str]:
    """Files to read, a folder of Parquet shards or a data set with one split standing for its own.

    Args:
        paths: Files, Hugging Face data set directories, or folders with Parquet files as a hub
            repository has them.

    Returns:
        Paths that `read_source` takes, in the order given, shards by name.

    Raises:
        DataError: If a data set has several splits, of which one must be chosen.

    Example:
        >>> expand_folders(["prompts.jsonl"])
        ['prompts.jsonl']
    """
    return [name for path in paths for name in _files_of(Path(path), str(path))]


def read_source(path: str | Path) -> pl.DataFrame:
    r"""A table with prompts, from any file of `charm_rm.data.tables.read_table` and two more.

    Args:
        path: A table, a ``.txt`` file with a prompt a line (in UTF-8; lines end at ``\n``), or a
            ``.json`` list of strings.

    Returns:
        The table as it stands in the file; the two more have one column, ``prompt``.

    Raises:
        DataError: If the file can't be read or holds no rows.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "prompts.txt"
        >>> _ = path.write_text("Who was Ada?\nAdd 2 and 3.\n")
        >>> read_source(path)["prompt"].to_list()
        ['Who was Ada?', 'Add 2 and 3.']
        >>> folder.cleanup()
    """
    name = str(path)
    texts = _lines(path) if name.lower().endswith(".txt") else _json_strings(path)
    frame = read_table(path) if texts is None else pl.DataFrame({"prompt": texts})
    if frame.is_empty():
        raise DataError(f"{name}: no rows; give a file with prompts")
    return frame


def find_prompts(frame: pl.DataFrame, *, column: str | None = None, where: str) -> Iterator[Any]:
    """The prompt of each row as the file has it: a string, a list of messages, or None.

    Args:
        frame: As `read_source` gives it.
        column: The column to read; by default the first of ``PROMPT_NAMES``, else what the
            conversations ``chosen`` and ``rejected`` share.
        where: The file, for messages.

    Returns:
        An iterator of one item a row. Of preference rows, the turns that both sides begin with.

    Raises:
        DataError: If there is no such column, it holds neither texts nor lists, or the rows are
            of several forms or in several columns.

    Example:
        >>> user = {"role": "user", "content": "Hi"}
        >>> sides = [[user, {"role": "assistant", "content": text}] for text in ("Hello", "No")]
        >>> rows = pl.DataFrame({"chosen": [sides[0]], "rejected": [sides[1]]})
        >>> list(find_prompts(rows, where="pairs.jsonl"))
        [[{'role': 'user', 'content': 'Hi'}]]
    """
    if column is not None:
        require_columns(frame, (column,), where=where)
        return _column_prompts(frame[column], where=where)
    found = [name for name in PROMPT_NAMES if name in frame.columns]
    if found:
        _refuse_scattered(frame, found, where=where)
        return _column_prompts(frame[found[0]], where=where)
    if all(isinstance(frame.schema.get(name), pl.List) for name in PREFERENCE_NAMES):
        chosen, rejected = (_objects(frame[name]) for name in PREFERENCE_NAMES)
        return (shared_turns(*sides) for sides in zip(chosen, rejected, strict=True))
    raise DataError(
        f"{where}: no column of prompts ({', '.join(map(repr, PROMPT_NAMES))}) and no "
        f"conversations in 'chosen' and 'rejected'; it has {', '.join(frame.columns)}; name the "
        "column with --prompt-column"
    )


def shared_turns(chosen: Sequence[Any] | None, rejected: Sequence[Any] | None) -> list[Any] | None:
    """The turns that two conversations begin with.

    Args:
        chosen: One list of messages.
        rejected: The other.

    Returns:
        Their common beginning, which may be empty; None where one of them is missing.

    Example:
        >>> shared_turns(["a", "b", "c"], ["a", "b", "d", "e"])
        ['a', 'b']
    """
    if chosen is None or rejected is None:
        return None
    pairs = zip(chosen, rejected, strict=False)
    n_shared = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    return list(islice(chosen, min(len(chosen), len(rejected)) if n_shared is None else n_shared))


def _files_of(path: Path, name: str) -> list[str]:
    if "://" in name or not path.is_dir() or (path / "state.json").is_file():
        return [name]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.parent.name for child in path.glob("*/state.json"))
        _refuse_splits(path, splits)
        return [str(path / split) for split in splits]
    shards = sorted(path.rglob("*.parquet"))
    _refuse_splits(path, sorted({shard.stem.split("-")[0] for shard in shards}))
    return [str(shard) for shard in shards] or [name]


def _refuse_splits(path: Path, splits: list[str]) -> None:
    if len(splits) > 1:
        raise DataError(
            f"{path}: has {len(splits)} splits or tables ({', '.join(splits[:8])}); "
            "name the files or the folder of one"
        )


def _lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not readable as text ({reason}); check the file") from error
    return text.removesuffix("\n").split("\n") if text else []


def _json_strings(path: str | Path) -> list[str] | None:
    """The strings of a JSON list of strings; None of any other file, which others read."""
    local = Path(path)
    if local.suffix.lower() != ".json" or not local.is_file():
        return None
    with local.open("rb") as file:
        head = file.read(64).removeprefix(b"\xef\xbb\xbf").split()
    if not b"".join(head).startswith(b'["'):
        return None
    try:
        values = json.loads(local.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}); check the file") from error
    mixed = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if mixed:
        raise DataError(f"{path}: {_rows(mixed)} no string, as the others have; give one form")
    return list(map(mend_text, values))


def mend_text(text: str) -> str:
    r"""Text that UTF-8 can hold: half of a surrogate pair, as broken JSON has it, becomes U+FFFD.

    Args:
        text: As `json.loads` gives it.

    Returns:
        The same text, unless it holds a surrogate; no other character is touched.

    Example:
        >>> mend_text("good \ud83d")
        'good �'
    """
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _column_prompts(values: pl.Series, *, where: str) -> Iterator[Any]:
    if isinstance(values.dtype, pl.List):
        return _objects(values)
    if values.dtype not in (pl.String, pl.Null):
        raise DataError(
            f"{where}: column {values.name!r} holds {values.dtype}; prompts are texts or lists of "
            "messages"
        )
    texts = values.cast(pl.String)
    listed = texts.str.contains(r'^\s*\[\s*\{\s*"(?:role|content)"')
    some = listed.fill_null(value=False)
    plain = (~listed).fill_null(value=False) & (texts.str.strip_chars() != "").fill_null(value=True)
    if some.any() and plain.any():
        minority, form = (
            (some, "lists of messages, the others plain text")
            if some.sum() <= plain.sum()
            else (plain, "plain text, the others lists of messages")
        )
        raise DataError(
            f"{where}: {_rows(minority.arg_true().to_list())} {form}; give all prompts of a file "
            "in one form"
        )
    return _decoded(texts, where=where) if some.any() else _objects(texts)


def _decoded(texts: pl.Series, *, where: str) -> Iterator[Any]:
    for row, text in enumerate(_objects(texts)):
        if text is None or not text.strip():
            yield None
            continue
        try:
            yield json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{where}: row {row + 1}: not a JSON list of messages ({error}); mend that row"
            ) from error


def _objects(values: pl.Series) -> Iterator[Any]:
    for start in range(0, len(values), ROWS_AT_A_TIME):
        yield from values.slice(start, ROWS_AT_A_TIME).to_list()


def _refuse_scattered(frame: pl.DataFrame, names: list[str], *, where: str) -> None:
    """Some prompts in one column and some in another: neither alone is the file's prompts."""
    first, *others = names
    for other in others:
        elsewhere = (frame[first].is_null() & frame[other].is_not_null()).arg_true().to_list()
        if elsewhere:
            raise DataError(
                f"{where}: {_rows(elsewhere)} prompts in {other!r}, not in {first!r}; give all "
                "prompts of a file in one column, or name one with --prompt-column"
            )


def _rows(rows: list[int]) -> str:
    """Rows as a sentence begins with them: the first few, counted from 1."""
    shown = ", ".join(str(row + 1) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"row {shown}: has" if len(rows) == 1 else f"rows {shown}{more}: have"
