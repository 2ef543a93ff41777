"""``charm categorize``: the six classes of prompts, offline or by an endpoint."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import page, print_json, record_run, require_extra, say, warn
from charm_rm.cli.options import Force, Json

if TYPE_CHECKING:
    from charm_rm.categorize import Categorizer, FilledTable
    from charm_rm.data.categories import PromptTable

SUFFIXES = (".parquet", ".csv", ".jsonl")  # checked before an endpoint is asked
SECONDS_BETWEEN_LINES = 10.0  # of progress


def categorize(
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE...",
            help="Tables with prompts (prompts, responses, preference pairs), or scores.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str, typer.Option(metavar="FILE", help="Table to write: .parquet, .csv or .jsonl.")
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE",
            help="Where the prompts are, if TABLE has their ids alone (scores); repeat for more.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask an OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY.",
            show_default="the classifier that comes with the package",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model at the endpoint.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests under way at once.")
    ] = 8,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep the endpoint's answers here, for later runs.",
            show_default="kept until the table is written",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace categories that are there already.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Sort prompts into the paper's six classes. With an endpoint, run it again to resume.

    Offline it is right on about three prompts in four; docs/method.md says what was measured.

    Example: charm categorize responses.parquet --out responses-by-category.parquet
    """
    if (endpoint is None) != (model is None):
        raise typer.BadParameter("--endpoint and --model go together")
    if endpoint is not None:
        require_extra("charm categorize --endpoint", "httpx2", extra="endpoint")
    if cache is not None and endpoint is None:
        raise typer.BadParameter("only with --endpoint: offline there is nothing to keep")
    parts = _check_output(out, force=force, inputs=[*tables, *(prompts or [])])

    from charm_rm.categorize import fill_categories
    from charm_rm.data.categories import read_prompt_table
    from charm_rm.data.parts import remove_parts
    from charm_rm.data.tables import write_table

    table = read_prompt_table(tables, prompts=prompts or ())
    _check_columns(table, out)
    ask = (
        _asker(endpoint, model, concurrency=concurrency, parts=parts, cache=cache)
        if endpoint
        else None
    )
    result = fill_categories(table, ask, overwrite=overwrite)
    write_table(result.frame, out, force=force)
    if endpoint and cache is None:
        remove_parts(parts)
    if result.n_left:
        warn([f"{result.n_left} rows have no category: no valid answer came; run on {out} again"])
    if json:
        method = model or "offline"
        document = {"out": out, "method": method, **_summary(result)}
        print_json(document | {"made_by": record_run([*tables, *(prompts or [])])})
    else:
        _print_counts(result)
        say(f"wrote {out}: {result.n_filled:,} rows filled, {result.n_kept:,} kept")


def _check_output(out: str, *, force: bool, inputs: list[str]) -> Path:
    """Where the parts go, once it is sure that the table can be written when it is there."""
    from charm_rm.data.tables import DataError, refuse_existing

    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{out}: unknown kind of table; give one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise DataError(f"{out}: is a directory; give a file")
    refuse_existing(path, force=force, inputs=inputs)
    return path.with_name(f"{path.name}.parts")


def _check_columns(table: "PromptTable", out: str) -> None:
    """CSV holds no lists: said before an endpoint is asked, not after."""
    from charm_rm.data.tables import DataError

    nested = [name for name, kind in table.frame.schema.items() if kind.is_nested()]
    if nested and Path(out).suffix.lower() == ".csv":
        raise DataError(f"{out}: CSV holds no lists ({nested[0]!r}); give .parquet or .jsonl")


def _asker(
    url: str, model: str | None, *, concurrency: int, parts: Path, cache: str | None
) -> "Categorizer":
    """What puts prompts to the endpoint and says how far it is."""
    from charm_rm.models.endpoint_categories import CategoryEndpoint, ask_categories

    endpoint = CategoryEndpoint(url, str(model), concurrency=concurrency)
    folder = parts
    if cache is not None:
        Path(cache).mkdir(parents=True, exist_ok=True)
        folder = endpoint.cache_in(cache)
    next_line = 0.0

    def show(done: int, total: int) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line or done == total:
            say(f"{done:,} of {total:,} prompts")
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def ask(texts: Sequence[str]) -> Sequence[str | None]:
        return ask_categories(texts, endpoint, parts=folder, on_progress=show)

    return ask


def _summary(result: "FilledTable") -> dict[str, object]:
    return {
        "n_rows": len(result.frame),
        "n_filled": result.n_filled,
        "n_kept": result.n_kept,
        "n_left": result.n_left,
        "counts": result.counts,
        "prompt_counts": result.prompt_counts,
    }


def _print_counts(result: "FilledTable") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("category", no_wrap=True)
    table.add_column("prompts", justify="right")
    table.add_column("rows", justify="right")
    for name, count in result.counts.items():
        table.add_row(name, f"{result.prompt_counts[name]:,}", f"{count:,}")
    page().print(table)
