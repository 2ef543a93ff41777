"""`charm demo`: the whole light pipeline on the bundled scores, and what it leaves behind."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

SCORES = Path(str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet"))
Demo = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        code = "from charm_rm.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, "demo", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    return run


def test_the_demo_says_first_what_the_scores_are_and_where_they_come_from(demo: Demo) -> None:
    result = demo()
    assert result.returncode == 0, result.stderr
    first = result.stderr.splitlines()[0]
    assert "scores are real" in first
    assert "SmolLM2-135M-Instruct" in first
    assert "CC BY-NC" in first


def test_the_demo_leaves_json_pairs_and_a_page_that_agree(demo: Demo, tmp_path: Path) -> None:
    started = time.monotonic()
    result = demo("--json")
    assert time.monotonic() - started < 30  # the claim is 10 s on an idle machine
    document = json.loads(result.stdout)
    folder = tmp_path / "charm-demo"
    assert json.loads((folder / "audit.json").read_text(encoding="utf-8")) == document["audit"]
    assert json.loads((folder / "offsets.json").read_text(encoding="utf-8")) == document["offsets"]
    pairs = pl.read_parquet(folder / "pairs.parquet")
    assert len(pairs) == document["pairs"]["n_pairs"]
    assert int(pairs["flipped"].sum()) == document["pairs"]["n_flipped"]
    offset = document["offsets"]["offsets"][0]
    assert offset["win_rate_after"] == pytest.approx(offset["expected_win_rate"], abs=1e-10)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(entry["policy"] in page for entry in document["audit"]["policies"])
    assert (folder / "figures" / "mean-score-and-elo.png").stat().st_size > 10_000


def test_the_demo_uses_only_prompts_that_training_did_not_see(demo: Demo) -> None:
    document = json.loads(demo("--json").stdout)
    assert {entry["n_prompts"] for entry in document["audit"]["policies"]} == {403}


def test_the_demo_refuses_to_write_over_an_earlier_one_without_force(demo: Demo) -> None:
    assert demo("--out", "here").returncode == 0
    again = demo("--out", "here")
    assert again.returncode == 1
    assert "here: exists already; give --force" in again.stderr
    assert demo("--out", "here", "--force").returncode == 0


def test_with_responses_the_pairs_have_their_texts(
    demo: Demo, tmp_path: Path, shared: Path
) -> None:
    outputs = shared / "data/alpaca_eval/outputs.parquet"
    result = demo("--responses", str(outputs))
    assert result.returncode == 0, result.stderr
    pairs = pl.read_parquet(tmp_path / "charm-demo" / "pairs.parquet")
    row = pairs.row(0, named=True)
    texts = pl.read_parquet(outputs).filter(
        (pl.col("model") == row["chosen_policy"])
        & (pl.col("instruction") == row["prompt"][0]["content"])
    )
    assert row["chosen"] == [{"role": "assistant", "content": texts["output"].item()}]


def test_the_bundled_table_holds_20_policies_on_805_prompts_and_no_text() -> None:
    table = pl.read_parquet(SCORES)
    assert len(table) == 20 * 805
    assert table["policy"].n_unique() == 20
    assert table["prompt_id"].n_unique() == 805
    assert table.select(pl.col("score").is_finite().all()).item()
    assert set(table.columns) <= {
        *("prompt_id", "policy", "sample", "score", "reward_model", "n_tokens", "truncated"),
        "half",
    }
    assert SCORES.stat().st_size < 400_000
