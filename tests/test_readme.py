"""What the README says is what its commands give."""

import contextlib
import io
import json
import re
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

from charm_rm.audit import Audit, audit_scores
from charm_rm.calibrate_many import calibrate_jointly
from charm_rm.data.arena import read_elo
from charm_rm.data.scores import read_scores

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MINI = "gpt-4o-mini-2024-07-18"


@pytest.fixture(scope="module")
def scores() -> pl.DataFrame:
    path = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")
    return read_scores([path], by="half")


@pytest.fixture(scope="module")
def audit(scores: pl.DataFrame) -> Audit:
    unseen = scores.filter(pl.col("category") == "audit")
    return audit_scores(unseen, read_elo("table7"), reference=MINI)


def test_the_python_example_runs_and_prints_the_figures_of_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    code = README.split("```python")[1].split("```")[0]
    assert len(code.strip().splitlines()) <= 12
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    policy, offset, flipped = printed.getvalue().split()
    assert policy == "gemma-2-9b-it-SimPO"
    assert f"An offset of {float(offset):.2f} points" in README
    assert f"and flips {flipped} of 403 pairs" in " ".join(README.split())


def test_the_table_holds_the_audits_numbers(audit: Audit) -> None:
    found = {entry.policy: entry for entry in audit.policies}
    rows = re.findall(r"^\| ([\w.-]+) \| (\d+) \| (.*) \|$", README, flags=re.MULTILINE)
    assert len(rows) == 5
    for policy, elo, cells in rows:
        entry = found[policy]
        interval = f"({entry.mismatch_low:+.3f} to {entry.mismatch_high:+.3f})"
        expected = [
            f"{entry.expected_win_rate:.3f}",
            f"{entry.sigmoid_win_rate:.3f}",
            f"{entry.hard_win_rate:.3f}",
            f"{entry.signed_mismatch:+.3f} {interval}",
        ]
        assert int(elo) == entry.elo
        assert cells.replace("*", "").split(" | ") == expected


def test_the_correlation_and_the_joint_residual_are_the_printed_ones(
    audit: Audit, scores: pl.DataFrame
) -> None:
    text = " ".join(README.split())
    assert f"correlate at {audit.pearson:.2f} over the 20 policies" in text
    assert f"95% interval {audit.pearson_low:.2f} to {audit.pearson_high:.2f}" in text
    joint = calibrate_jointly(scores, read_elo("table7"), reference=MINI).joint
    assert joint is not None
    assert f"from {joint['rmse_before']:.3f} to {joint['rmse']:.3f}" in text


def test_the_accuracy_of_the_small_reward_model_is_its_cards() -> None:
    folder = REPOSITORY / "reward_models" / "smollm2-135m-judge"
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    whole = figures["held_out"]["unseen prompts, all policies"]
    assert f"in {whole['accuracy']:.3f} of cases" in README
    assert f"{whole['longer_wins']:.3f}" in README


def test_every_path_that_the_tree_names_is_there() -> None:
    tree = README.split("## Where things are")[1].split("```")[1]
    names = re.findall(r"[\w/]+(?:\.py|/)(?=\s)", tree)
    for name in names:
        found = list(REPOSITORY.glob(f"**/{name.rstrip('/')}"))
        assert found, name
