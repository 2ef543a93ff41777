"""``charm best-of-n``: the highest scored response to each prompt."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.console import page, print_json, record_run, say
from charm_rm.cli.options import By, Force, Json, Scores

if TYPE_CHECKING:
    from charm_rm.best_of_n import BestOfN


def best_of_n(
    scores: Scores,
    out: Annotated[
        str, typer.Option(metavar="TABLE", help="Output: .parquet, .jsonl or .csv (no texts).")
    ],
    offsets: Annotated[
        str | None,
        typer.Option(
            metavar="OFFSETS", help="Offsets file, added to the scores first.", show_default=False
        ),
    ] = None,
    responses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Responses that were scored; repeat for more files. Without them the table has "
            "ids and policies, no texts.",
            show_default=False,
        ),
    ] = None,
    per_policy: Annotated[
        bool,
        typer.Option("--per-policy", help="Choose among the samples of each policy, not of all."),
    ] = False,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", metavar="N", min=1, help="First N samples of each policy.", show_default="all"
        ),
    ] = None,
    by: By = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Choose the best of n responses, and show what the best of 1, 2, 4, ... scores.

    Example: charm best-of-n scores.parquet --offsets offsets.json --responses responses.parquet
    --out best.parquet
    """
    from charm_rm.best_of_n import choose_best_of_n
    from charm_rm.data.offsets import read_offsets
    from charm_rm.data.responses import read_responses
    from charm_rm.data.scores import read_scores
    from charm_rm.data.tables import refuse_existing, write_table

    inputs = [*scores, *([offsets] if offsets else []), *(responses or [])]
    refuse_existing(out, force=force, inputs=inputs)
    result = choose_best_of_n(
        read_scores(scores, by=by or "category"),
        read_offsets(offsets) if offsets else None,
        per_policy=per_policy,
        n=n,
        responses=read_responses(responses) if responses else None,
    )
    write_table(result.frame, out, force=force)
    if json:
        print_json({"out": out, **_summary(result), "made_by": record_run(inputs)})
        return
    print_curve(result)
    if not per_policy:
        print_chosen(result)
    changed = f", {result.n_changed} others than without offsets" if offsets else ""
    say(
        f"wrote {out}: {len(result.frame)} responses, {result.n_ties} ties{changed}"
        + ("" if responses else " (ids and policies; --responses adds texts)")
    )


def _summary(result: "BestOfN") -> dict[str, Any]:
    return {
        "n_chosen": len(result.frame),
        "n_ties": result.n_ties,
        "n_changed": result.n_changed,
        "chosen": result.chosen,
        "chosen_without_offsets": result.chosen_without,
        "curve": [asdict(point) for point in result.curve],
    }


def print_curve(result: "BestOfN") -> None:
    """The expected score of the best of n, for people."""
    names = ["n", "KL, nats", "expected score", "prompts"]
    whose = ["policy"] if result.curve[0].policy is not None else []
    rows = [
        (
            *([point.policy] if point.policy is not None else []),
            f"{point.n}",
            f"{point.kl:.3f}",
            f"{point.expected_score:.3f}",
            f"{point.n_prompts}",
        )
        for point in result.curve
    ]
    _print_table("Expected score of the best of n", [*whose, *names], rows)


def print_chosen(result: "BestOfN") -> None:
    """How often each policy wrote the best response, for people."""
    with_offsets = "changed" in result.frame.columns
    names = sorted(
        {*result.chosen, *result.chosen_without},
        key=lambda name: (-result.chosen.get(name, 0), name),
    )
    rows = [
        (
            name,
            f"{result.chosen.get(name, 0) / len(result.frame):.3f}",
            *([f"{result.chosen_without.get(name, 0) / len(result.frame):.3f}"] * with_offsets),
        )
        for name in names
    ]
    columns = ["policy", "chosen", *(["without offsets"] * with_offsets)]
    page().print()
    _print_table("Chosen, share of prompts", columns, rows)


def _print_table(title: str, names: list[str], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in names:
        table.add_column(
            name, justify="left" if name == "policy" else "right", no_wrap=name != "policy"
        )
    for row in rows:
        table.add_row(*row)
    page().print(table)
