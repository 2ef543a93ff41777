"""Audits AlpacaEval's GPT-4-turbo judge as if it were a reward model.

The judge compared every output with the same baseline's. The log-odds of beating that baseline
are a score: the margin of two policies is then what the judge implies about their meeting. The
ratings are those of the Chatbot Arena's text board on 2025-03-03, for the judged models that the
board has. Give the folder that holds alpaca_eval/judge.parquet and arena/leaderboards.parquet:

    python examples/audit_gpt4_judge.py DATA
"""

import sys
from pathlib import Path

import polars as pl

from charm_rm.audit import audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.cli.audit import print_audit
from charm_rm.cli.calibrate import say_offsets
from charm_rm.cli.console import warn
from charm_rm.data.aliases import name_models
from charm_rm.data.arena import EloTable
from charm_rm.data.leaderboards import read_leaderboard

# Not gpt4_1106_preview, the opponent in all of the judge's comparisons: its own score is constant,
# and every other policy lies below its Elo against it.
REFERENCE = "claude-2.1"
LEAST = 1e-4  # the judge's log-probabilities are cut here: beyond it they are rounding


def judge_scores(path: Path) -> pl.DataFrame:
    """The judge's log-odds of beating the baseline, as a score table."""
    win = (pl.col("preference") - 1.0).clip(LEAST, 1.0 - LEAST)
    return pl.read_parquet(path).select(
        pl.col("instruction_id").cast(pl.String).alias("prompt_id"),
        pl.col("model").alias("policy"),
        pl.lit(0, dtype=pl.Int64).alias("sample"),
        (win / (1.0 - win)).log().alias("score"),
        pl.lit("weighted_alpaca_eval_gpt4_turbo").alias("reward_model"),
    )


def main(data: Path) -> None:
    """Audit, and the offset of the pair that it suggests."""
    scores = judge_scores(data / "alpaca_eval" / "judge.parquet")
    board = read_leaderboard(
        data / "arena" / "leaderboards.parquet",
        date="2025-03-03",
        category="text_overall",
        source="chatbot-arena-history",
    )
    elo = name_models(board, scores["policy"].unique().sort()).table
    rated = scores.filter(pl.col("policy").is_in(elo.models))
    audit = audit_scores(rated, elo, reference=REFERENCE, win_rate="hard")
    warn(audit.warnings)
    print_audit(audit)
    pair = audit.suggested_pair
    if pair is not None:
        calibration = calibrate_pair(
            rated, elo, over_valued=pair.over_valued, reference=REFERENCE, win_rate="hard"
        )
        say_offsets(calibration)
        others = [policy.policy for policy in audit.policies if policy.policy != pair.over_valued]
        print_references(rated, elo, over_valued=pair.over_valued, references=others)


def print_references(
    scores: pl.DataFrame, elo: EloTable, *, over_valued: str, references: list[str]
) -> None:
    """With how many references the same policy has the highest mismatch."""
    first = 0
    for reference in references:
        audit = audit_scores(scores, elo, reference=reference, win_rate="hard", n_resamples=2)
        highest = max(audit.policies, key=lambda policy: policy.signed_mismatch)
        first += highest.policy == over_valued
    print(f"{over_valued} has the highest mismatch with {first} of {len(references)} references")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
