"""``charm preferences``: preference pairs straight from votes (A.5)."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import page, print_json, record_run, say
from charm_rm.cli.options import Force, Json

if TYPE_CHECKING:
    import polars as pl


class Ties(StrEnum):
    """What becomes of ties."""

    DROP = "drop"
    BOTH = "both"


def preferences(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Votes: Arena battles with conversations, or data with chosen and rejected.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="PAIRS",
            help="Pairs to write: .parquet, .jsonl, or a data set directory.",
            show_default=False,
        ),
    ],
    ties: Annotated[
        Ties, typer.Option(help="Drop ties, or let each stand once each way.")
    ] = Ties.DROP,
    several_turns: Annotated[
        bool,
        typer.Option(
            "--several-turns", help="Also conversations whose sides part before the last turn."
        ),
    ] = False,
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Take this language only; repeat for more.", show_default="all"
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Drop pairs whose prompt is in this benchmark; repeat for more.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make preference pairs from people's votes, without a reward model (A.5).

    Example: charm preferences arena_55k.csv --benchmark rm_bench.parquet --out votes.parquet
    """
    from charm_rm.data.preferences import write_preferences
    from charm_rm.data.tables import refuse_existing
    from charm_rm.data.vote_pairs import read_vote_pairs

    refuse_existing(out, force=force, inputs=files)
    found = read_vote_pairs(
        files,
        ties=ties.value,
        several_turns=several_turns,
        languages=language or (),
        benchmark=_benchmark_texts(benchmark or []),
    )
    write_preferences(found.frame, out, force=force)
    n_ties = int(found.frame["tie"].sum())
    if json:
        summary = {
            "out": out,
            "n_votes": found.n_votes,
            "n_pairs": len(found.frame),
            "n_pairs_of_ties": n_ties,
            "n_prompts": found.frame["prompt_id"].n_unique(),
            "dropped": dict(found.dropped),
        }
        print_json(summary | {"made_by": record_run([*files, *(benchmark or [])])})
    else:
        _print_counts(found.frame, found.n_votes, dict(found.dropped), n_ties=n_ties)
    say(f"wrote {out}: {len(found.frame):,} pairs")


def _benchmark_texts(paths: list[str]) -> list[str]:
    from charm_rm.data.prompts import collect_prompts

    if not paths:
        return []
    prompts = collect_prompts(paths, merge_duplicates=True).frame["prompt"]
    return ["\n".join(turn["content"] for turn in turns) for turns in prompts.to_list()]


def _print_counts(
    frame: "pl.DataFrame", n_votes: int, dropped: dict[str, int], *, n_ties: int
) -> None:
    from rich.table import Table

    lines = {
        "votes read": n_votes,
        **{f"dropped: {reason}": n for reason, n in dropped.items()},
        "pairs": len(frame),
        "  of ties, once each way": n_ties,
        "prompts": frame["prompt_id"].n_unique(),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in lines.items():
        table.add_row(name, f"{value:,}")
    page().print(table)
