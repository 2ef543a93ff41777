"""``charm calibrate``: the offsets that bring policies to their Elo-expected win rates."""

from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import print_json, record_run, say, warn
from charm_rm.cli.options import (
    By,
    Elo,
    Force,
    Json,
    Resamples,
    Scores,
    Seed,
    Temperature,
    WinRate,
    WinRateOption,
)

if TYPE_CHECKING:
    from charm_rm.data.offsets import Calibration


def calibrate(
    scores: Scores,
    reference: Annotated[str, typer.Option(metavar="MODEL", help="Trusted opponent, which stays.")],
    out: Annotated[str, typer.Option(metavar="OFFSETS", help="Offsets file to write (JSON).")],
    over_valued: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Policy whose scores the offset moves; needed unless --joint.",
            show_default=False,
        ),
    ] = None,
    elo: Elo = "table7",
    win_rate: WinRateOption = WinRate.SIGMOID,
    temperature: Temperature = 1.0,
    by: By = None,
    no_shrink: Annotated[
        bool,
        typer.Option(
            "--no-shrink", help="With --by: each category's own offset, however uncertain."
        ),
    ] = False,
    joint: Annotated[
        bool,
        typer.Option("--joint", help="Offsets of all policies at once, against the Elo matrix."),
    ] = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Solve score offsets: of one pair, by category of prompts, or of all policies jointly.

    Example: charm calibrate scores.parquet --over-valued gemma-2-9b-it-SimPO
    --reference gpt-4o-mini-2024-07-18 --out offsets.json
    """
    _check_usage(over_valued, by, joint=joint, hard=win_rate is WinRate.HARD)

    from charm_rm.calibrate import calibrate_pair
    from charm_rm.calibrate_many import calibrate_categories, calibrate_jointly
    from charm_rm.data.arena import read_elo
    from charm_rm.data.scores import read_scores
    from charm_rm.data.tables import refuse_existing, write_json

    refuse_existing(out, force=force)
    table, ratings = read_scores(scores, by=by or "category"), read_elo(elo)
    made_by = record_run([*scores, elo])
    if over_valued is None:
        result = calibrate_jointly(
            table, ratings, reference=reference, temperature=temperature, made_by=made_by
        )
    elif by is not None:
        result = calibrate_categories(
            table,
            ratings,
            over_valued=over_valued,
            reference=reference,
            win_rate=win_rate.value,
            temperature=temperature,
            shrink=not no_shrink,
            made_by=made_by,
        )
    else:
        result = calibrate_pair(
            table,
            ratings,
            over_valued=over_valued,
            reference=reference,
            win_rate=win_rate.value,
            temperature=temperature,
            n_resamples=resamples,
            seed=seed,
            made_by=made_by,
        )
    warn(result.warnings)
    write_json(result.to_json(), out, force=force)
    if json:
        print_json(result.to_json())
    else:
        say_offsets(result)
        say(f"wrote {out}")


def _check_usage(over_valued: str | None, by: str | None, *, joint: bool, hard: bool) -> None:
    if joint == (over_valued is not None):
        raise typer.BadParameter(
            "give --over-valued MODEL for one pair, or --joint for all policies",
            param_hint="--joint",
        )
    if joint and by is not None:
        raise typer.BadParameter("not together with --joint", param_hint="--by")
    if joint and hard:
        raise typer.BadParameter(
            "joint offsets fit the sigmoid win rate; a small --temperature comes near the hard one",
            param_hint="--win-rate",
        )


def say_offsets(result: "Calibration") -> None:
    """What the offsets are and what they change: two lines each, and what is left over."""
    for entry in result.offsets:
        hard = result.win_rate == "hard"
        before = entry.hard_win_rate_before if hard else entry.win_rate_before
        after = entry.hard_win_rate_after if hard else entry.win_rate_after
        where = f" on {entry.category}" if entry.category is not None else ""
        say(
            f"{entry.policy}{where}: add {entry.offset:+.4f} score points "
            f"(95% interval {entry.offset_low:+.4f} to {entry.offset_high:+.4f}), "
            f"from {entry.n_prompts} prompts shared with {result.reference}"
        )
        say(
            f"  {result.win_rate} win rate {before:.4f} -> {after:.4f} "
            f"(Elo expects {entry.expected_win_rate:.4f}); "
            f"signed mismatch {entry.mismatch_before:+.4f} -> {entry.mismatch_after:+.4f}"
        )
    if result.joint is not None:
        n = len(result.joint["policies"])
        say(
            f"win rates of {n} policies against each other: root mean square of what is left "
            f"{result.joint['rmse_before']:.4f} -> {result.joint['rmse']:.4f} "
            f"({n - 1} offsets for {n * (n - 1) // 2} pairs; gradient norm "
            f"{result.joint['gradient_norm']:.0e})"
        )
