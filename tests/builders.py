"""Small tables that the tests share."""

import numpy as np
import polars as pl

SIMPO = "gemma-2-9b-it-SimPO"
MINI = "gpt-4o-mini-2024-07-18"
POLICIES = (SIMPO, MINI, "gpt4_0613", "vicuna-7b")


def make_scores(
    n_prompts: int = 60,
    *,
    policies: tuple[str, ...] = POLICIES,
    boost: float = 3.0,
    decimals: int = 6,
    seed: int = 0,
) -> pl.DataFrame:
    """Scores with a strong prompt effect; the first policy gets ``boost`` points too many."""
    rng = np.random.default_rng(seed)
    prompt_effect = rng.normal(0, 5, n_prompts)
    rows = []
    for at, policy in enumerate(policies):
        own = prompt_effect + rng.normal(0, 1, n_prompts) - 0.5 * at + boost * (at == 0)
        rows += [
            (f"p{prompt:03d}", policy, 0, round(float(score), decimals), "toy-rm")
            for prompt, score in enumerate(own)
        ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model"]
    return pl.DataFrame(rows, schema=names, orient="row")


def make_responses(scores: pl.DataFrame) -> pl.DataFrame:
    """A response for every score, in this project's columns."""
    return scores.select(
        "prompt_id",
        pl.concat_list(
            pl.struct(
                role=pl.lit("user"), content=pl.concat_str(pl.lit("Tell me of "), "prompt_id")
            )
        ).alias("prompt"),
        "policy",
        "sample",
        pl.concat_str("policy", pl.lit(" says: it is "), "prompt_id").alias("response"),
        pl.lit("stop").alias("finish_reason"),
    )
