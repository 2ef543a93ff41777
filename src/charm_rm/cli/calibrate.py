"""``charm calibrate``: the offset that brings a policy to its Elo-expected win rate."""

from typing import TYPE_CHECKING, Annotated

import typer

from charm_rm.cli.console import print_json, record_run, say, warn
from charm_rm.cli.options import (
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
    over_valued: Annotated[
        str, typer.Option(metavar="MODEL", help="Policy whose scores the offset moves.")
    ],
    reference: Annotated[str, typer.Option(metavar="MODEL", help="Trusted opponent, which stays.")],
    out: Annotated[str, typer.Option(metavar="OFFSETS", help="Offsets file to write (JSON).")],
    elo: Elo = "table7",
    win_rate: WinRateOption = WinRate.SIGMOID,
    temperature: Temperature = 1.0,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Solve the score offset of one pair of policies.

    Example: charm calibrate scores.parquet --over-valued gemma-2-9b-it-SimPO
    --reference gpt-4o-mini-2024-07-18 --out offsets.json
    """
    from charm_rm.calibrate import calibrate_pair
    from charm_rm.data.arena import read_elo
    from charm_rm.data.scores import read_scores
    from charm_rm.data.tables import refuse_existing, write_json

    refuse_existing(out, force=force)
    result = calibrate_pair(
        read_scores(scores),
        read_elo(elo),
        over_valued=over_valued,
        reference=reference,
        win_rate=win_rate.value,
        temperature=temperature,
        n_resamples=resamples,
        seed=seed,
        made_by=record_run([*scores, elo]),
    )
    warn(result.warnings)
    write_json(result.to_json(), out, force=force)
    if json:
        print_json(result.to_json())
    else:
        say_offset(result)
        say(f"wrote {out}")


def say_offset(result: "Calibration") -> None:
    """What the offset is and what it changes, in two lines."""
    entry = result.offsets[0]
    hard = result.win_rate == "hard"
    before = entry.hard_win_rate_before if hard else entry.win_rate_before
    after = entry.hard_win_rate_after if hard else entry.win_rate_after
    say(
        f"{entry.policy}: add {entry.offset:+.4f} score points "
        f"(95% interval {entry.offset_low:+.4f} to {entry.offset_high:+.4f}), "
        f"from {entry.n_prompts} prompts shared with {result.reference}"
    )
    say(
        f"{result.win_rate} win rate {before:.4f} -> {after:.4f} "
        f"(Elo expects {entry.expected_win_rate:.4f}); "
        f"signed mismatch {entry.mismatch_before:+.4f} -> {entry.mismatch_after:+.4f}"
    )
