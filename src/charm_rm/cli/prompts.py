"""``charm prompts``: prompts from the files that have them, checked, sampled, in one table."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import page, print_json, record_run, say
from charm_rm.cli.options import Force, Json, Seed

if TYPE_CHECKING:
    from charm_rm.data.prompt_report import PromptReport
    from charm_rm.data.prompts import Prompts

ROWS_SHOWN = 20  # of dropped rows, in --json


def prompts(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Prompts: Parquet, JSONL, CSV, JSON, a text file with one a line, a Hugging Face "
            "data set; or preference data, whose prompts are taken out.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPTS",
            help="Prompts to write: .parquet or .jsonl.",
            show_default="report only",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Draw N prompts at random.", show_default="all"),
    ] = None,
    seed: Seed = 0,
    merge_duplicates: Annotated[
        bool,
        typer.Option(
            "--merge-duplicates", help="Keep one row of each prompt, not one id for each row."
        ),
    ] = False,
    prompt_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with the prompts.",
            show_default="prompt, instruction, messages, conversation, or chosen and rejected",
        ),
    ] = None,
    id_column: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column with the ids; without it, a digest.")
    ] = "prompt_id",
    source: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Source of the rows that name none.",
            show_default="the file's name",
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Read, check and sample prompts for policies to answer.

    Example: charm prompts preference_700K/ --sample 20000 --seed 0 --out prompts.parquet
    """
    from charm_rm.data.prompt_ids import sample_prompts
    from charm_rm.data.prompt_report import report_prompts
    from charm_rm.data.prompts import check_output, collect_prompts, write_prompts

    if out is not None:
        check_output(out, force=force, inputs=files)
    found = collect_prompts(
        files,
        prompt_column=prompt_column,
        id_column=id_column,
        source=source,
        merge_duplicates=merge_duplicates,
    )
    frame = found.frame if sample is None else sample_prompts(found.frame, sample, seed=seed)
    if out is not None:
        write_prompts(frame, out, force=force)
    report = report_prompts(frame)
    if json:
        print_json(_document(found, report, out=out, seed=seed, files=files))
        return
    _print_report(found, report)
    if out is not None:
        say(f"wrote {out}: {report.n_prompts:,} prompts")


def _document(
    found: "Prompts", report: "PromptReport", *, out: str | None, seed: int, files: list[str]
) -> dict[str, Any]:
    return {
        "out": out,
        "n_rows": found.n_rows,
        "n_usable": len(found.frame),
        "n_duplicates": found.n_duplicates,
        "n_merged": found.n_merged,
        "n_cut": found.n_cut,
        "dropped": {
            reason: {"n": len(rows), "rows": rows[:ROWS_SHOWN]}
            for reason, rows in found.dropped.items()
        },
        "seed": seed,
        **asdict(report),
        "made_by": record_run(files),
    }


def _print_report(found: "Prompts", report: "PromptReport") -> None:
    from rich.table import Table

    kept = "merged" if found.n_merged else "kept, each with an id of its own"
    lines = {
        "rows read": f"{found.n_rows:,}",
        **{
            f"dropped: {reason}": f"{len(rows):,} (first: {rows[0]})"
            for reason, rows in found.dropped.items()
        },
        "duplicates": f"{found.n_duplicates:,}" + (f" ({kept})" if found.n_duplicates else ""),
        "assistant turns cut off after": f"{found.n_cut:,}",
        "prompts": f"{report.n_prompts:,}"
        + (f" drawn of {len(found.frame):,}" if report.n_prompts < len(found.frame) else ""),
        "  of several user turns": f"{report.n_multi_turn:,}",
        "  with a system turn": f"{report.n_with_system:,}",
        "  turns not alternating": f"{report.n_not_alternating:,}",
        "characters": "  ".join(f"{name} {n:,}" for name, n in report.chars.items()),
        "sources": "  ".join(f"{name} {n:,}" for name, n in report.sources.items()),
        "categories": "  ".join(f"{name} {n:,}" for name, n in report.categories.items()) or "none",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in lines.items():
        table.add_row(name, value)
    page().print(table)
