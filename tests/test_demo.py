"""`charm demo`: the whole light pipeline on the bundled scores, and what it leaves behind."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from builders import run_main

SCORES = Path(str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet"))


@dataclass(frozen=True)
class Demo:
    """A demo that ran: what it printed and where it wrote."""

    ended: "subprocess.CompletedProcess[str]"
    folder: Path
    seconds: float

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.ended.stdout))


def run_demo(folder: Path, *arguments: str) -> Demo:
    code = "from charm_rm.cli.main import main; main()"
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", code, "demo", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return Demo(ended, folder / "charm-demo", time.monotonic() - started)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    demo = run_demo(tmp_path_factory.mktemp("demo"), "--json")
    assert demo.ended.returncode == 0, demo.ended.stderr
    return demo


def test_the_demo_says_first_what_the_scores_are_and_where_they_come_from(demo: Demo) -> None:
    first = demo.ended.stderr.splitlines()[0]
    assert "scores are real" in first
    assert "SmolLM2-135M-Instruct" in first
    assert "CC BY-NC" in first


def test_the_demo_leaves_json_pairs_and_a_page_that_agree(demo: Demo) -> None:
    assert demo.seconds < 30  # the claim is 10 s on an idle machine
    document, folder = demo.document, demo.folder
    assert json.loads((folder / "audit.json").read_text(encoding="utf-8")) == document["audit"]
    assert json.loads((folder / "offsets.json").read_text(encoding="utf-8")) == document["offsets"]
    pairs = pl.read_parquet(folder / "pairs.parquet")
    assert len(pairs) == document["pairs"]["n_pairs"]
    assert int(pairs["flipped"].sum()) == document["pairs"]["n_flipped"]
    offset = document["offsets"]["offsets"][0]
    assert offset["win_rate_after"] == pytest.approx(offset["expected_win_rate"], abs=1e-10)
    page = (folder / "report.html").read_text(encoding="utf-8")
    for entry in document["audit"]["policies"]:
        assert f'data-value="{entry["policy"]}"' in page
        assert f'data-value="{entry["signed_mismatch"]}"' in page
        assert f'data-value="{entry["mean_score"]}"' in page
    assert (folder / "figures" / "mean-score-and-elo.png").stat().st_size > 10_000


def test_the_demo_uses_only_prompts_that_training_did_not_see(demo: Demo) -> None:
    assert {entry["n_prompts"] for entry in demo.document["audit"]["policies"]} == {403}


def test_a_report_of_what_the_demo_left_shows_the_same_numbers(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo.folder.parent)
    ended = run_main(("report", "charm-demo", "--out", "again.html", "--json"), capsys)
    assert ended.status == 0, ended.err
    again = json.loads(ended.out)
    assert again["audit"] == demo.document["audit"]
    assert again["pairs"]["n_flipped"] == demo.document["pairs"]["n_flipped"]


def test_the_demo_refuses_to_write_over_an_earlier_one_without_force(demo: Demo) -> None:
    again = run_demo(demo.folder.parent)
    assert again.ended.returncode == 1
    assert "charm-demo: exists already; give --force" in again.ended.stderr


def test_with_responses_the_pairs_have_their_texts(demo: Demo, shared: Path) -> None:
    outputs = shared / "data/alpaca_eval/outputs.parquet"
    found = run_demo(demo.folder.parent, "--responses", str(outputs), "--force")
    assert found.ended.returncode == 0, found.ended.stderr
    pairs = pl.read_parquet(found.folder / "pairs.parquet")
    row = pairs.row(0, named=True)
    texts = pl.read_parquet(outputs).filter(
        (pl.col("model") == row["chosen_policy"])
        & (pl.col("instruction") == row["prompt"][0]["content"])
    )
    assert row["chosen"] == [{"role": "assistant", "content": texts["output"].item()}]
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "Flipped pairs, side by side" in page


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
