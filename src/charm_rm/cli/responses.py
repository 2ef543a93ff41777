"""``charm responses``: responses that exist already, imported and checked."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import page, print_json, record_run, say
from charm_rm.cli.options import Force, Json

if TYPE_CHECKING:
    import polars as pl

    from charm_rm.data.response_check import ResponseCheck
    from charm_rm.data.response_sources import ImportedResponses

ROWS_SHOWN = 20  # of dropped rows, in --json

responses = typer.Typer(
    name="responses",
    help="Responses that exist already: import them from any layout, check what is missing.",
    no_args_is_help=True,
)
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATHS...",
        help="Folders of AlpacaEval model_outputs.json, Arena battles, tables (Parquet, JSONL, "
        "CSV, JSON), Hugging Face data sets.",
        show_default=False,
    ),
]
PromptColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column with the prompts.",
        show_default="prompt, instruction, messages, conversation",
    ),
]
ResponseColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Column with the responses.", show_default="response, output"
    ),
]
PolicyColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column with the policies' names.",
        show_default="policy, generator, model",
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Policy that wrote all of it.", show_default="what the files say"
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column with the prompts' ids; without one, a digest.",
        show_default="prompt_id",
    ),
]
PromptTable = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="PROMPTS",
        help="Prompts that were asked: ids and categories are taken from it, by the text.",
        show_default=False,
    ),
]
SingleTurn = Annotated[
    bool,
    typer.Option(
        "--single-turn", help="Leave out battles of several turns; else take their first turn."
    ),
]


@responses.command("import")
def import_(
    paths: Paths,
    out: Annotated[
        str, typer.Option(metavar="RESPONSES", help="Responses to write: .parquet or .jsonl.")
    ],
    prompt_column: PromptColumn = None,
    response_column: ResponseColumn = None,
    policy_column: PolicyColumn = None,
    policy: Policy = None,
    id_column: IdColumn = None,
    prompts: PromptTable = None,
    single_turn: SingleTurn = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Bring responses from any layout into one table; reasoning text goes to its own column.

    Example: charm responses import results/ --out responses.parquet
    """
    from charm_rm.data.prompts import check_output
    from charm_rm.data.response_check import check_responses
    from charm_rm.data.tables import write_table

    check_output(out, force=force, inputs=[*paths, *([prompts] if prompts else [])])
    named = {
        "prompt": prompt_column,
        "response": response_column,
        "policy": policy_column,
        "prompt_id": id_column,
    }
    found, asked = _read(paths, named, policy=policy, prompts=prompts, single_turn=single_turn)
    write_table(found.frame, out, force=force)
    _show(found, check_responses(found.frame, prompts=asked), paths=paths, out=out, json=json)


@responses.command("check")
def check(
    paths: Paths,
    prompt_column: PromptColumn = None,
    response_column: ResponseColumn = None,
    policy_column: PolicyColumn = None,
    policy: Policy = None,
    id_column: IdColumn = None,
    prompts: PromptTable = None,
    single_turn: SingleTurn = False,
    json: Json = False,
) -> None:
    """Show what each policy answered: coverage, empty, repeated and refused responses, lengths.

    Example: charm responses check responses.parquet --prompts prompts.parquet
    """
    from charm_rm.data.response_check import check_responses

    named = {
        "prompt": prompt_column,
        "response": response_column,
        "policy": policy_column,
        "prompt_id": id_column,
    }
    found, asked = _read(paths, named, policy=policy, prompts=prompts, single_turn=single_turn)
    _show(found, check_responses(found.frame, prompts=asked), paths=paths, out=None, json=json)


def _read(
    paths: list[str],
    columns: dict[str, str | None],
    *,
    policy: str | None,
    prompts: str | None,
    single_turn: bool,
) -> "tuple[ImportedResponses, pl.DataFrame | None]":
    from charm_rm.data.prompts import read_prompts
    from charm_rm.data.response_sources import import_responses

    asked = read_prompts([prompts]) if prompts else None
    named = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    found = import_responses(
        paths, columns=named, policy=policy, prompts=asked, single_turn=single_turn
    )
    return found, asked


def _show(
    found: "ImportedResponses",
    check: "ResponseCheck",
    *,
    paths: list[str],
    out: str | None,
    json: bool,
) -> None:
    """What was read and left out, and the table of policies; or all of it as JSON."""
    if json:
        print_json(_document(found, check, paths=paths, out=out))
        return
    _print_policies(check)
    for reason, rows in found.dropped.items():
        say(f"left out, {reason}: {len(rows):,} (first: {rows[0]})")
    if found.n_later_turns:
        say(f"first turn taken of battles with several: {found.n_later_turns:,} responses")
    if found.n_numbered:
        say(f"further rows of a prompt and policy, numbered as samples: {found.n_numbered:,}")
    if found.reordered:
        say(f"prompts in another order, joined all the same: {', '.join(found.reordered)}")
    counts = f"{len(found.frame):,} responses of {len(check.policies):,} policies"
    say(
        f"{'wrote ' + out + ': ' if out else ''}{counts} to {check.n_prompts:,} prompts; "
        f"all policies answered {check.n_complete:,} of them"
    )


def _document(
    found: "ImportedResponses", check: "ResponseCheck", *, paths: list[str], out: str | None
) -> dict[str, Any]:
    from charm_rm.data.response_check import ANSWERS, REFUSALS

    return {
        "out": out,
        "n_rows": found.n_rows,
        "n_responses": len(found.frame),
        "dropped": {
            reason: {"n": len(rows), "rows": rows[:ROWS_SHOWN]}
            for reason, rows in found.dropped.items()
        },
        "n_numbered": found.n_numbered,
        "n_later_turns": found.n_later_turns,
        "reordered": found.reordered,
        **asdict(check),
        "refusal_patterns": dict(REFUSALS),
        "no_refusal_with": ANSWERS,
        "made_by": record_run(paths),
    }


def _print_policies(check: "ResponseCheck") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("policy")
    names = ("responses", "coverage", "missing", "empty", "duplicates", "refusals", "reasoning")
    for name in (*names, "cut", "chars p5", "p50", "p95"):
        table.add_column(name, justify="right")
    for one in check.policies:
        table.add_row(
            one.policy,
            f"{one.n_responses:,}",
            f"{one.coverage:.3f}",
            *(
                f"{n:,}"
                for n in (
                    *(one.n_missing, one.n_empty, one.n_duplicates, one.n_refusals),
                    *(one.n_reasoning, one.n_cut),
                )
            ),
            *(f"{one.chars[p]:,}" if one.chars else "-" for p in ("p5", "p50", "p95")),
        )
    page().print(table)
