"""How each kind of table file is parsed, for `charm_rm.data.tables.read_table`.

That function says which file is bad and what to do; what is here raises whatever its library does.
"""

import codecs
import json
from collections.abc import Callable
from typing import IO, Any

import polars as pl

# Names and texts, which a CSV reader must not take for numbers: 0001, 1.10, 3e5.
TEXT_COLUMNS = {
    *("prompt_id", "prompt", "instruction", "policy", "model", "generator", "reward_model"),
    *("response", "output", "category", "source", "board", "date", "finish_reason"),
    *("model_a", "model_b", "winner", "model_name", "Model"),
    *("chosen_policy", "rejected_policy", "generator_1", "generator_2"),
    *("chosen", "rejected", "name", "pattern"),
}
PROMPT_COLUMNS = ("prompt", "instruction", "messages")
Source = str | IO[bytes]  # an address, or an open local file


def _read_json(source: Source) -> pl.DataFrame:
    if isinstance(source, str):
        raise ValueError("a list of objects is read from local files only; fetch it first")
    rows = json.loads(source.read().decode("utf-8-sig"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it must hold a list of objects")
    return _frame(rows)


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A table of JSON objects; where some prompts are messages, a string is one user turn."""
    for column in PROMPT_COLUMNS:
        if {str, list} <= {type(row.get(column)) for row in rows}:
            for row in rows:
                if isinstance(row.get(column), str):
                    row[column] = [{"role": "user", "content": row[column]}]
    return pl.DataFrame(rows, infer_schema_length=None)


def _read_csv(source: Source) -> pl.DataFrame:
    names = pl.read_csv(source, n_rows=0).columns
    if not isinstance(source, str):
        source.seek(0)
    texts = {name: pl.String for name in names if name in TEXT_COLUMNS}
    return pl.read_csv(source, infer_schema_length=None, schema_overrides=texts)


def _read_lines(source: Source) -> pl.DataFrame:
    if isinstance(source, str):
        return pl.read_ndjson(source, infer_schema_length=None)
    text = source.read().removeprefix(codecs.BOM_UTF8)
    frame = pl.read_ndjson(text, infer_schema_length=None)
    texts = [name for name in PROMPT_COLUMNS if frame.schema.get(name) == pl.String]
    if not any(frame[name].str.starts_with("[").any() for name in texts):
        return frame
    # In a column of strings and lists, polars writes the lists as text.
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    mixed = any(isinstance(row.get(name), list) for row in rows for name in texts)
    return _frame(rows) if mixed else frame


READERS: dict[str, Callable[[Source], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
}
