"""``charm calibrate``: the offsets that bring policies to their Elo-expected win rates."""

from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import page, print_json, record_run, say, warn
from charm_rm.cli.options import (
    By,
    Elo,
    Force,
    Json,
    MixProvenance,
    Resamples,
    Scores,
    Seed,
    Temperature,
    WinRate,
    WinRateOption,
)

if TYPE_CHECKING:
    from charm_rm.cross_validate import CrossValidation
    from charm_rm.data.offsets import Calibration


def calibrate(
    scores: Scores,
    reference: Annotated[str, typer.Option(metavar="MODEL", help="Trusted opponent, which stays.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="OFFSETS",
            help="Offsets file to write (JSON); needed unless --cross-validate.",
            show_default=False,
        ),
    ] = None,
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
    cross_validate: Annotated[
        int | None,
        typer.Option(
            metavar="FOLDS",
            min=2,
            help="Fit on some prompts, measure on the others, by every method; writes no offsets.",
            show_default=False,
        ),
    ] = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    mix_provenance: MixProvenance = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Solve score offsets: of one pair, by category of prompts, or of all policies jointly.

    Example: charm calibrate scores.parquet --over-valued gemma-2-9b-it-SimPO
    --reference gpt-4o-mini-2024-07-18 --out offsets.json
    """
    _check_usage(over_valued, by, joint=joint, hard=win_rate is WinRate.HARD)
    if cross_validate is not None:
        if over_valued is None:
            raise typer.BadParameter("needs --over-valued MODEL", param_hint="--cross-validate")
        _cross_validate(
            scores,
            elo=elo,
            by=by,
            over_valued=over_valued,
            reference=reference,
            n_folds=cross_validate,
            temperature=temperature,
            seed=seed,
            mix_provenance=mix_provenance,
            as_json=json,
        )
        return
    if out is None:
        raise typer.BadParameter("say where the offsets go", param_hint="--out")

    from charm_rm.calibrate import calibrate_pair
    from charm_rm.calibrate_many import calibrate_categories, calibrate_jointly
    from charm_rm.data.arena import read_elo
    from charm_rm.data.scores import read_scores
    from charm_rm.data.tables import refuse_existing, write_json

    if not out.endswith(".json"):
        raise typer.BadParameter("offsets are written as .json", param_hint="--out")
    refuse_existing(out, force=force, inputs=[*scores, elo])
    table = read_scores(scores, by=by or "category", mix_provenance=mix_provenance)
    ratings = read_elo(elo)
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


def _cross_validate(
    scores: list[str],
    *,
    elo: str,
    by: str | None,
    over_valued: str,
    reference: str,
    n_folds: int,
    temperature: float,
    seed: int,
    mix_provenance: bool,
    as_json: bool,
) -> None:
    """The table of held-out mismatches, by method and kind of win rate."""
    from charm_rm.cross_validate import cross_validate
    from charm_rm.data.arena import read_elo
    from charm_rm.data.scores import read_scores

    result = cross_validate(
        read_scores(scores, by=by or "category", mix_provenance=mix_provenance),
        read_elo(elo),
        over_valued=over_valued,
        reference=reference,
        n_folds=n_folds,
        temperature=temperature,
        seed=seed,
    )
    if as_json:
        print_json(result.to_json())
    else:
        print_held_out(result)


def print_held_out(result: "CrossValidation") -> None:
    """Held-out mismatches as a table for people."""
    from rich.table import Table

    table = Table(
        title=f"{result.over_valued} against {result.reference}: {result.n_prompts} prompts, each "
        f"measured by a fit on the other {result.n_folds - 1} of {result.n_folds} parts",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for name in ("win rate", "mismatch", "95% interval", "by category", "other policies", "matrix"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(
            row.method,
            row.win_rate,
            f"{row.signed_mismatch:+.3f}",
            f"{row.mismatch_low:+.3f} {row.mismatch_high:+.3f}",
            *(
                "" if x is None else f"{x:.3f}"
                for x in (row.category_mismatch, row.others_mismatch)
            ),
            f"{row.matrix_rmse:.3f}",
        )
    console = page()
    console.print(table)
    console.print(
        "\nMismatch: signed (Eq. 5). By category, other policies: mean Mismatch Degree. "
        "Matrix: root mean square of win rate minus expected win rate over all pairs."
    )


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
