"""The table that `charm demo` reads: scores of 20 policies, ids and numbers only.

Made from the scores of the small reward model on AlpacaEval outputs:

    charm score DATA/alpaca_eval/outputs.parquet --reward-model reward_models/smollm2-135m-judge
        --base-model smollm2 --out scores.parquet
    python recipes/demo_scores.py scores.parquet
"""

import json
import sys
from pathlib import Path

import polars as pl

from charm_rm.data.provenance import read_provenance, write_scores
from charm_rm.data.scores import read_scores

REPOSITORY = Path(__file__).parents[1]
SPLIT = REPOSITORY / "reward_models" / "smollm2-135m-judge" / "split.json"
OUT = REPOSITORY / "src" / "charm_rm" / "data" / "snapshots" / "demo_scores.parquet"


def main(paths: list[str]) -> None:
    """Marks which half of the instructions each score is of, and bundles the table."""
    halves = json.loads(SPLIT.read_text(encoding="utf-8"))
    known = {prompt_id: half for half, ids in halves.items() for prompt_id in ids}
    table = (
        read_scores(paths)
        .with_columns(
            pl.col("score").cast(pl.Float32),  # the backbone computed in bfloat16
            pl.col("n_tokens").cast(pl.Int32),
            pl.col("prompt_id").replace_strict(known).alias("half"),
        )
        .sort("policy", "prompt_id", "sample")
    )
    made = read_provenance(paths[0]) or {}
    inputs = {Path(name).name: digest for name, digest in made.get("inputs", {}).items()}
    n_truncated = int(table["truncated"].sum())
    made_by = {
        "version": made.get("version"),
        "command": "python recipes/demo_scores.py scores.parquet",
        "inputs": inputs,
        "model": made.get("model"),
        "n_truncated": n_truncated,
    }
    write_scores(table, OUT, made_by=made_by, force=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
