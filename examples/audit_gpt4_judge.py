"""Audits AlpacaEval's GPT-4-turbo judge as if it were a reward model.

The judge compared every output with the same baseline's. The log-odds of beating that baseline
are a score: the margin of two policies is then what the judge implies about their meeting. The
Elo ratings are those of the Chatbot Arena's text board on 2025-03-03.

    python examples/audit_gpt4_judge.py DATA     # the folder with alpaca_eval/ and arena/
"""

import sys
from datetime import date
from pathlib import Path

import polars as pl

from charm_rm.audit import audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.cli.audit import print_audit
from charm_rm.cli.calibrate import say_offset
from charm_rm.data.arena import EloTable, read_elo
from charm_rm.data.tables import write_table

DATE = date(2025, 3, 3)
# Not the baseline: every policy lies below its Elo against it, since the judge over-values it.
REFERENCE = "claude-2.1"
LEAST = 1e-4  # the judge's log-probabilities are cut here: beyond it they are rounding
ARENA_NAMES = {
    "gpt4_1106_preview": "gpt-4-1106-preview",
    "gpt-3.5-turbo-1106": "gpt-3.5-turbo-1106",
    "claude": "claude-1",
    "claude-2": "claude-2.0",
    "claude-2.1": "claude-2.1",
    "OpenHermes-2.5-Mistral-7B": "openhermes-2.5-mistral-7b",
    "Qwen-14B-Chat": "qwen-14b-chat",
    "wizardlm-13b": "wizardlm-13b",
    "vicuna-13b": "vicuna-13b",
    "vicuna-7b": "vicuna-7b",
    "gemma-2b-it": "gemma-2b-it",
    "chatglm2-6b": "chatglm2-6b",
    "oasst-sft-pythia-12b": "oasst-pythia-12b",
}


def judge_scores(path: Path) -> pl.DataFrame:
    """The judge's log-odds of beating the baseline, as a score table."""
    win = (pl.col("preference") - 1.0).clip(LEAST, 1.0 - LEAST)
    return (
        pl.read_parquet(path)
        .filter(pl.col("model").is_in(list(ARENA_NAMES)))
        .select(
            pl.col("instruction_id").cast(pl.String).alias("prompt_id"),
            pl.col("model").alias("policy"),
            pl.lit(0, dtype=pl.Int64).alias("sample"),
            (win / (1.0 - win)).log().alias("score"),
            pl.lit("weighted_alpaca_eval_gpt4_turbo").alias("reward_model"),
        )
    )


def dated_elo(path: Path, out: Path) -> EloTable:
    """The leaderboard of one date under AlpacaEval's names, as an Elo table on disk."""
    names = {key: name for name, key in ARENA_NAMES.items()}
    board = pl.read_parquet(path).filter(
        pl.col("source") == "chatbot-arena-history",
        pl.col("category") == "text_overall",
        pl.col("date") == DATE,
        pl.col("model_key").is_in(list(names)),
    )
    table = board.select(
        pl.col("model_key").replace_strict(names).alias("model"),
        pl.col("rating").alias("elo"),
        pl.lit(DATE.isoformat()).alias("date"),
        pl.lit("chatbot-arena text overall").alias("board"),
        pl.lit("chatbot-arena-history").alias("source"),
    )
    write_table(table, out, force=True)
    return read_elo(out)


def main(data: Path) -> None:
    """Audit, and the offset of the pair that it suggests."""
    scores = judge_scores(data / "alpaca_eval" / "judge.parquet")
    elo = dated_elo(data / "arena" / "leaderboards.parquet", Path("elo-2025-03-03.csv"))
    audit = audit_scores(scores, elo, reference=REFERENCE, win_rate="hard")
    print_audit(audit)
    pair = audit.suggested_pair
    if pair is not None:
        say_offset(
            calibrate_pair(
                scores,
                elo,
                over_valued=pair.over_valued,
                reference=pair.reference,
                win_rate="hard",
            )
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
