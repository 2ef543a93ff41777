"""``charm calibrate``: the offsets that bring policies to their Elo-expected win rates."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charm_rm.cli.calibrate_validation import validate_offsets
from charm_rm.cli.console import print_json, record_run, say, warn
from charm_rm.cli.options import (
    By,
    Elo,
    Force,
    Json,
    MixProvenance,
    RatedOnly,
    Resamples,
    Scores,
    Seed,
    Temperature,
    TemperatureFrom,
    WinRate,
    WinRateOption,
    choose_temperature,
    keep_rated,
)
from charm_rm.report.words import RATINGS_DRAWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from charm_rm.calibrate_scores import CalibratedScores
    from charm_rm.data.arena import EloTable
    from charm_rm.data.offsets import Calibration

SCORE_SUFFIXES = (".parquet", ".csv", ".jsonl")


class Method(StrEnum):
    """How scores are corrected; the last two change each score, and write a score table."""

    OFFSET = "offset"
    PROBIT = "probit"
    Z_SCORE = "z-score"
    LENGTH = "length"

    @property
    def makes_scores(self) -> bool:
        """Whether the result is a table of scores, and no offsets."""
        return self in (Method.Z_SCORE, Method.LENGTH)


def calibrate(
    scores: Scores,
    reference: Annotated[str, typer.Option(metavar="MODEL", help="Trusted opponent, which stays.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="OFFSETS|SCORES",
            help="Offsets file to write (.json), or with --method z-score or length the calibrated "
            "scores; needed unless --cross-validate.",
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
    temperature: Temperature = None,
    temperature_from: TemperatureFrom = None,
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
    method: Annotated[
        Method,
        typer.Option(
            help="The offset; its closed form for normal margins; or, to compare with, z-scores "
            "per policy, or scores less their trend in response length."
        ),
    ] = Method.OFFSET,
    responses: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Responses that were scored, for their lengths in characters; repeat for more "
            "files. Without them, lengths are n_tokens of the scores (prompt included).",
            show_default=False,
        ),
    ] = None,
    rated_only: RatedOnly = False,
    cross_validate: Annotated[
        int | None,
        typer.Option(
            metavar="FOLDS",
            min=2,
            help="Fit on some prompts, measure on the others, by every method; writes nothing.",
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
    _check_usage(over_valued, by, joint=joint, no_shrink=no_shrink)
    if cross_validate is None:
        _check_output(out, method, plain=not joint and by is None, labels=temperature_from)
        if responses and method is not Method.LENGTH:
            raise typer.BadParameter(
                "needs --method length or --cross-validate", param_hint="--responses"
            )
    else:
        _check_validation(over_valued, out, method)
    inputs = [*scores, elo, *(temperature_from or []), *(responses or [])]
    if out is not None:
        _refuse_existing(out, inputs=inputs, force=force)
    table, ratings = _read_scores(scores, elo, by=by, mix_provenance=mix_provenance)
    table = keep_rated(table, [ratings]) if rated_only else table
    settings: dict[str, Any] = {"over_valued": over_valued, "reference": reference}
    drawn = {"n_resamples": resamples, "seed": seed}
    if cross_validate is not None or method.makes_scores:
        settings["responses"] = _read_responses(responses)
    if cross_validate is not None:
        fixed = 1.0 if temperature is None else temperature
        settings |= {"n_folds": cross_validate, "seed": seed, "temperature": fixed}
        validate_offsets(
            table,
            ratings,
            labels=temperature_from,
            made_by=record_run(inputs) if json else None,
            settings=settings,
        )
        return
    chosen, fitted = choose_temperature(table, temperature, labels=temperature_from)
    made_by = record_run(inputs) | ({"temperature_fit": fitted.to_json()} if fitted else {})
    settings |= {"win_rate": win_rate.value, "temperature": chosen}
    write: dict[str, Any] = {"out": str(out), "force": force, "as_json": json}
    if method.makes_scores:
        settings |= {"method": method.value, **drawn}
        _write_scores(table, ratings, settings=settings, made_by=made_by, **write)
        return
    settings["made_by"] = made_by
    if by is not None:
        settings["shrink"] = not no_shrink
    elif joint:
        del settings["over_valued"]
        settings |= drawn
    else:
        settings |= {"method": method.value, **drawn}
    _write_offsets(table, ratings, settings=settings, **write)


def _read_scores(
    scores: list[str], elo: str, *, by: str | None, mix_provenance: bool
) -> "tuple[pl.DataFrame, EloTable]":
    from charm_rm.data.arena import read_elo
    from charm_rm.data.scores import read_scores

    table = read_scores(scores, by=by or "category", mix_provenance=mix_provenance)
    return table, read_elo(elo)


def _refuse_existing(out: str, *, inputs: list[str], force: bool) -> None:
    from charm_rm.data.tables import refuse_existing

    refuse_existing(out, force=force, inputs=inputs)


def _read_responses(paths: list[str] | None) -> "pl.DataFrame | None":
    from charm_rm.data.responses import read_responses

    return read_responses(paths) if paths else None


def _write_offsets(
    table: "pl.DataFrame",
    ratings: "EloTable",
    *,
    out: str,
    settings: dict[str, Any],
    force: bool,
    as_json: bool,
) -> None:
    """Offsets of one pair, by category, or jointly: the settings say which."""
    from charm_rm.calibrate import calibrate_pair
    from charm_rm.calibrate_many import calibrate_categories, calibrate_jointly
    from charm_rm.data.tables import write_json

    if "over_valued" not in settings:
        result = calibrate_jointly(table, ratings, **settings)
    elif "shrink" in settings:
        result = calibrate_categories(table, ratings, **settings)
    else:
        result = calibrate_pair(table, ratings, **settings)
    warn(result.warnings)
    write_json(result.to_json(), out, force=force)
    if as_json:
        print_json(result.to_json())
    else:
        say_offsets(result)
        say(f"wrote {out}")


def _write_scores(
    table: "pl.DataFrame",
    ratings: "EloTable",
    *,
    out: str,
    settings: dict[str, Any],
    made_by: dict[str, Any],
    force: bool,
    as_json: bool,
) -> None:
    """Calibrated scores, and what they do to the mismatches."""
    from charm_rm.calibrate_scores import calibrate_scores
    from charm_rm.data.tables import write_table

    result = calibrate_scores(table, ratings, **settings)
    write_table(result.frame, out, force=force)
    if as_json:
        print_json(result.to_json() | {"out": out, "made_by": made_by})
    else:
        _say_scores(result)
        say(f"wrote {out}: scores of {result.reward_model!r}")


def _say_scores(result: "CalibratedScores") -> None:
    before, after = result.before, result.after
    say(
        f"{result.over_valued} against {result.reference}: {result.win_rate} win rate "
        f"{before.win_rate:.4f} -> {after.win_rate:.4f}; signed mismatch "
        f"{before.signed_mismatch:+.4f} -> {after.signed_mismatch:+.4f} "
        f"(95% interval {after.mismatch_low:+.4f} to {after.mismatch_high:+.4f})"
    )
    if before.others_mismatch is not None and after.others_mismatch is not None:
        say(
            f"the other policies: mean Mismatch Degree {before.others_mismatch:.4f} -> "
            f"{after.others_mismatch:.4f}"
        )
    say(RATINGS_DRAWN[result.elo["errors"]])


def _check_usage(over_valued: str | None, by: str | None, *, joint: bool, no_shrink: bool) -> None:
    if joint == (over_valued is not None):
        raise typer.BadParameter(
            "give --over-valued MODEL for one pair, or --joint for all policies",
            param_hint="--joint",
        )
    if joint and by is not None:
        raise typer.BadParameter("not together with --joint", param_hint="--by")
    if no_shrink and by is None:
        raise typer.BadParameter("needs --by COLUMN", param_hint="--no-shrink")


def _check_validation(over_valued: str | None, out: str | None, method: Method) -> None:
    """A pair to validate, and no option that asks for anything else."""
    if over_valued is None:
        raise typer.BadParameter("needs --over-valued MODEL", param_hint="--cross-validate")
    if out is not None:
        raise typer.BadParameter(
            "not with --cross-validate: nothing is written", param_hint="--out"
        )
    if method is not Method.OFFSET:
        raise typer.BadParameter("not with --cross-validate: all are tried", param_hint="--method")


def _check_output(
    out: str | None, method: Method, *, plain: bool, labels: list[str] | None
) -> None:
    """A place to write to that suits the method, and no option that it could not heed."""
    if method is not Method.OFFSET and not plain:
        raise typer.BadParameter("not together with --joint or --by", param_hint="--method")
    if method.makes_scores and labels is not None:
        raise typer.BadParameter(
            f"{method.value} changes the scores; fit a temperature to what it writes, with charm "
            "audit",
            param_hint="--temperature-from",
        )
    if out is None:
        raise typer.BadParameter("say where the result goes", param_hint="--out")
    wanted = SCORE_SUFFIXES if method.makes_scores else (".json",)
    if not out.endswith(wanted):
        what = "scores are" if method.makes_scores else "offsets are"
        raise typer.BadParameter(f"{what} written as {' or '.join(wanted)}", param_hint="--out")


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
            f"({n - 1} offsets for {n * (n - 1) // 2} pairs{_converged(result.joint)})"
        )
    say(RATINGS_DRAWN[result.elo["errors"]])


def _converged(joint: "Mapping[str, Any]") -> str:
    norm = joint["gradient_norm"]  # hard win rates have no gradient
    return "" if norm is None else f"; gradient norm {norm:.0e}"
