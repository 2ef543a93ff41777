"""Scores of benchmark items with a reward model: what `evaluate` and `compare` have in common."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charm_rm.cli.console import record_run, require_extra, warn
from charm_rm.cli.progress import meter

if TYPE_CHECKING:
    import polars as pl

    from charm_rm.benchmarks.evaluation import Benchmark

TITLES = {  # name of the command: for people
    "rm-bench": "RM-Bench",
    "reward-bench": "RewardBench",
    "reward-bench-2": "RewardBench 2",
}


def find_benchmark(name: str) -> "Benchmark":
    """The benchmark of a command's name; only its own module is imported."""
    module = import_module(f"charm_rm.benchmarks.{name.replace('-', '_')}")
    benchmark: Benchmark = getattr(module, name.replace("-", "_").upper())
    return benchmark


def read_benchmark(benchmark: "Benchmark", paths: Sequence[str], *, command: str) -> "pl.DataFrame":
    """The items of a benchmark from files, or from the hub where none are given.

    Raises:
        DataError: If the data can't be read or loaded.
        MissingExtraError: If the hub is asked for and the library that asks is not there.
    """
    from charm_rm.benchmarks.items import make_items, read_items

    settings: dict[str, Any] = {
        "group_of": benchmark.group_of,
        "groups": tuple(benchmark.counts),
    }
    if paths:
        return read_items(paths, **settings)
    require_extra(f"{command} without its data", "datasets", extra="train")

    from charm_rm.models.hub_benchmarks import load_benchmark

    table = load_benchmark(benchmark.hub, split=benchmark.split)
    return make_items({benchmark.hub: table}, **settings)


def score_table(
    responses: "pl.DataFrame",
    model: Any,
    *,
    out: str | Path,
    inputs: Sequence[str],
    batch_tokens: int,
    force: bool,
) -> "pl.DataFrame":
    """Scores of responses or items, in parts beside ``out`` until they are whole there.

    Raises:
        DataError: If they can't be scored or written.
    """
    from charm_rm.data.parts import remove_parts
    from charm_rm.data.provenance import library_versions, write_scores
    from charm_rm.models.scoring import score_responses

    parts = Path(f"{out}.parts")
    with meter() as progress:
        table = score_responses(
            responses,
            model,
            parts=parts,
            batch_tokens=batch_tokens,
            on_progress=progress.report,
            on_warning=lambda line: warn([line]),
        )
    made_by = record_run(inputs) | {
        "model": model.fingerprint(),
        "n_truncated": int(table["truncated"].sum()),
        "libraries": library_versions(),
    }
    write_scores(table, out, made_by=made_by, force=force)
    remove_parts(parts)
    return table
