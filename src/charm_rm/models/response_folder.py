"""A folder of one policy's responses: what earlier runs left in it, what is missing, the table.

* ``responses.parquet``: the table, with its settings in the file's metadata.
* ``failures.jsonl``: what failed in the latest run, with its reason; not there if nothing did.
* ``parts``: responses that are not all in the table yet; see `charm_rm.data.parts`.

A response is known by its prompt's id and the number of its sample. No response is ever dropped: a
run that does not want one that is there is refused.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.parts import Parts, Setting, differing_settings, remove_parts
from charm_rm.data.prompts import PROMPT_TYPE, prompt_digest
from charm_rm.data.provenance import KEY, read_provenance
from charm_rm.data.tables import DataError, replacing, write_text
from charm_rm.models.policies import Failure, Request

TABLE, FAILURES, PARTS = "responses.parquet", "failures.jsonl", "parts"
PART_SCHEMA = {
    "prompt_id": pl.String,
    "sample": pl.Int64,
    "prompt": pl.String,  # its digest: an id may not stand for another
    "response": pl.String,
    "finish_reason": pl.String,
    "reasoning": pl.String,
    "n_prompt_tokens": pl.Int64,
    "n_tokens": pl.Int64,
    "first_token": pl.String,  # JSON: likely first tokens -> log-probability, where asked for
}
Key = tuple[str, int]


def request_key(request: Request) -> Key:
    """What a response is known by."""
    return request.prompt_id, request.sample


def read_finished(folder: str | Path, settings: Mapping[str, Setting]) -> pl.DataFrame | None:
    """The table that an earlier run left in a folder, if there is one of the same settings.

    Raises:
        DataError: If it was made with others, or does not say.
    """
    path = Path(folder) / TABLE
    if not path.exists():
        return None
    made_by = (read_provenance(path) or {}).get("settings")
    if not isinstance(made_by, dict):
        raise DataError(f"{path}: does not say how it was made; choose another output")
    if differences := differing_settings(made_by, settings):
        raise DataError(
            f"{path}: was made with other settings ({differences}); choose another output, or "
            "delete that one"
        )
    return pl.read_parquet(path)


def prompt_digests(prompts: pl.DataFrame) -> dict[str, str]:
    """The digest of each prompt, by its id."""
    rows = prompts.select("prompt_id", "prompt").iter_rows()
    return {prompt_id: prompt_digest(prompt) for prompt_id, prompt in rows}


def rows_of_table(finished: pl.DataFrame | None) -> pl.DataFrame:
    """Rows of a finished table, if any, in the columns of the parts."""
    if finished is None:
        return pl.DataFrame(schema=PART_SCHEMA)
    digests = prompt_digests(finished.unique("prompt_id"))
    rows = finished.with_columns(pl.col("prompt_id").replace_strict(digests).alias("prompt"))
    if "first_token" not in rows.columns:
        rows = rows.with_columns(first_token=pl.lit(None, dtype=pl.String))
    return rows.select(*PART_SCHEMA)


def stored_rows(parts: Parts, finished: pl.DataFrame | None) -> pl.DataFrame:
    """What the table and the parts hold, each response once.

    Rows are in both after a run with failures, or one killed between writing and deleting.
    """
    stored = parts.read()
    frames = [rows_of_table(finished), *([] if stored is None else [stored])]
    return pl.concat(frames).unique(["prompt_id", "sample"], keep="first", maintain_order=True)


def missing_requests(
    stored: pl.DataFrame, requests: Sequence[Request], digests: Mapping[str, str], folder: Path
) -> list[Request]:
    """Requests without a response.

    Raises:
        DataError: If a response is there that is not wanted, or that answers another text.
    """
    wanted = {request_key(one) for one in requests}
    have = set()
    for prompt_id, sample, digest in stored.select("prompt_id", "sample", "prompt").iter_rows():
        if (prompt_id, sample) not in wanted:
            raise DataError(
                f"{folder}: holds a response to prompt {prompt_id!r}, sample {sample}, which is "
                "not asked for now; give the same prompts and samples or more, or another output"
            )
        if digest != digests[prompt_id]:
            raise DataError(
                f"{folder}: prompt {prompt_id!r} is another text there; choose another output, or "
                "give each prompt an id of its own"
            )
        have.add((prompt_id, sample))
    return [one for one in requests if request_key(one) not in have]


def build_table(stored: pl.DataFrame, prompts: pl.DataFrame, *, name: str) -> pl.DataFrame:
    """Stored rows with their prompts, in the order of the prompts."""
    category = _category(prompts)
    first_token = ["first_token"] if stored["first_token"].null_count() < len(stored) else []
    prompt = pl.col("prompt").cast(PROMPT_TYPE)
    places = prompts.select("prompt_id", prompt, *category).with_row_index("place")
    columns = ["prompt_id", "prompt", "policy", "sample", "response", "finish_reason", "reasoning"]
    return (
        stored.drop("prompt")
        .join(places, on="prompt_id")
        .sort("place", "sample")
        .with_columns(pl.lit(name).alias("policy"))
        .select(*columns, *category, "n_prompt_tokens", "n_tokens", *first_token)
    )


def _category(prompts: pl.DataFrame) -> list[str]:
    """The column of categories, where one prompt has one."""
    given = "category" in prompts.columns and prompts["category"].null_count() < len(prompts)
    return ["category"] if given else []


def write_failures(failures: Sequence[Failure], path: Path, *, name: str) -> None:
    """The list of failures, or none where nothing failed."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    lines = [
        json.dumps(
            {
                "prompt_id": one.request.prompt_id,
                "policy": name,
                "sample": one.request.sample,
                "reason": one.reason,
            },
            ensure_ascii=False,
        )
        for one in failures
    ]
    write_text("\n".join(lines) + "\n", path, force=True)


def write_responses(
    table: pl.DataFrame,
    folder: str | Path,
    *,
    made_by: Mapping[str, Any],
    n_there: int = 0,
    complete: bool = True,
) -> None:
    """The table, whole or not at all; the parts go once all that was wanted is in it.

    Args:
        table: As `build_table` gives it.
        folder: Where.
        made_by: What made it; the settings stand under ``"settings"``.
        n_there: Rows that it has already; a table that gains none is left as it was.
        complete: Whether every request has its response in the table.

    Raises:
        DataError: If it can't be written; the parts are then still there.
    """
    folder = Path(folder)
    metadata = {KEY: json.dumps(dict(made_by), ensure_ascii=False)}
    if len(table) > n_there:
        path = folder / TABLE
        replacing(path, lambda part: table.write_parquet(part, metadata=metadata), force=True)
    if complete:
        remove_parts(folder / PARTS)
