"""``charm audit``: who is over-valued, by how much, how surely."""

from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import page, print_json, say, warn
from charm_rm.cli.options import (
    Elo,
    Json,
    Resamples,
    Scores,
    Seed,
    Temperature,
    WinRate,
    WinRateOption,
)

if TYPE_CHECKING:
    from charm_rm.audit import Audit, PolicyAudit


def audit(
    scores: Scores,
    elo: Elo = "table7",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Trusted opponent of all policies.", show_default="highest Elo"
        ),
    ] = None,
    win_rate: WinRateOption = WinRate.SIGMOID,
    temperature: Temperature = 1.0,
    rated_only: Annotated[
        bool, typer.Option("--rated-only", help="Leave out policies that have no Elo.")
    ] = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Which policies does the reward model over-value, against their Elo?

    Example: charm audit scores.parquet --elo table7 --reference gpt-4o-mini-2024-07-18
    """
    from charm_rm.audit import audit_scores
    from charm_rm.data.arena import read_elo
    from charm_rm.data.scores import read_scores

    table, ratings = read_scores(scores), read_elo(elo)
    if rated_only:
        unrated = sorted(set(table["policy"]) - set(ratings.models))
        table = table.filter(~table["policy"].is_in(unrated))
        say(f"left out, without Elo: {', '.join(unrated) or 'none'}")
    result = audit_scores(
        table,
        ratings,
        reference=reference,
        win_rate=win_rate.value,
        temperature=temperature,
        n_resamples=resamples,
        seed=seed,
    )
    warn(result.warnings)
    if json:
        print_json(result.to_json())
    else:
        print_audit(result)


def print_audit(result: "Audit") -> None:
    """The audit as a table for people, with its conclusion below."""
    from rich.table import Table

    table = Table(
        title=f"{result.reward_model}: win rate against {result.reference} "
        f"(Elo of {result.elo_date or 'unknown date'})",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("policy", overflow="fold")
    names = ("Elo", "score", "expected", "sigmoid", "hard", "mismatch", "95% interval")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for entry in result.policies:
        table.add_row(*_audit_row(entry))
    console = page()
    console.print(table)
    kind = result.win_rate_kind
    console.print(
        f"\nMean score and Elo over {len(result.policies)} policies: "
        f"Pearson {_two_digits(result.pearson)}{_interval(result)}, "
        f"Spearman {_two_digits(result.spearman)}. "
        f"Mismatch from the {kind} win rate, signed (Eq. 5)."
    )
    if result.suggested_pair is None:
        console.print("No policy lies above its expected win rate.")
    else:
        pair = result.suggested_pair
        console.print(
            f"Most worth calibrating: {pair.over_valued} against {pair.reference} "
            f"(Mismatch Degree {pair.mismatch_degree:.3f})."
        )


def _two_digits(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _interval(result: "Audit") -> str:
    if result.pearson_low is None or result.pearson_high is None:
        return ""
    return f" (95% interval {result.pearson_low:.2f} to {result.pearson_high:.2f})"


def _audit_row(entry: "PolicyAudit") -> tuple[str, ...]:
    return (
        entry.policy,
        f"{entry.elo:.0f}",
        f"{entry.mean_score:.3f}",
        f"{entry.expected_win_rate:.3f}",
        f"{entry.sigmoid_win_rate:.3f}",
        f"{entry.hard_win_rate:.3f}",
        f"{entry.signed_mismatch:+.3f}",
        f"{entry.mismatch_low:+.3f} {entry.mismatch_high:+.3f}",
        entry.verdict,
    )
