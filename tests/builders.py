"""Small tables that the tests share, and commands run within this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

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


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: object
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a command that was refused as it should be."""
        assert self.status == 1, self
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1, self.err
        assert lines[-1].startswith("error: ")
        return lines[-1]


Run = Callable[..., Ended]


def run_main(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> Ended:
    """The entry point of the command line with these arguments."""
    from charm_rm.cli.main import main

    before, sys.argv = sys.argv, ["charm", *arguments]
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    words = capsys.readouterr()
    return Ended(end.value.code, words.out, words.err)


def good_scores(n_prompts: int = 80) -> pl.DataFrame:
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    return make_scores(n_prompts).with_columns(
        category=(number % 2).cast(pl.String), n_tokens=20 + number
    )


def offsets_document() -> dict[str, object]:
    """The least that an offsets file holds."""
    rates = ("win_rate_before", "win_rate_after", "mismatch_before", "mismatch_after")
    hard = ("expected_win_rate", "hard_win_rate_before", "hard_win_rate_after")
    entry: dict[str, object] = dict.fromkeys((*rates, *hard), 0.5) | {
        "policy": SIMPO,
        "category": None,
        "n_prompts": 80,
    }
    ends = {"offset": -3.0, "offset_low": -3.5, "offset_high": -2.5}
    return {
        "reward_model": "toy-rm",
        "elo": {"board": "b", "date": "d"},
        "reference": MINI,
        "win_rate": "sigmoid",
        "temperature": 1.0,
        "offsets": [entry | ends],
    }


def state(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, with its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
