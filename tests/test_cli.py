"""The command line as scripts and people meet it: files, JSON, exit statuses, one-line errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from builders import MINI, SIMPO, make_responses, make_scores

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def charm(tmp_path: Path) -> Run:
    """Runs `charm` in an empty folder with scores.parquet and responses.parquet in it."""
    scores = make_scores(60)
    scores.write_parquet(tmp_path / "scores.parquet")
    make_responses(scores).write_parquet(tmp_path / "responses.parquet")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", "from charm_rm.cli.main import main; main()", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=os.environ | {"COLUMNS": "140", "PYTHONWARNINGS": "error"},
            timeout=120,
            check=False,
        )

    return run


CALIBRATE = ("calibrate", "scores.parquet", "--over-valued", SIMPO, "--reference", MINI)


def refused(result: "subprocess.CompletedProcess[str]") -> str:
    """The error line of a run that was refused as it should be."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def test_audit_prints_one_json_document_and_nothing_else(charm: Run) -> None:
    result = charm("audit", "scores.parquet", "--reference", MINI, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["suggested_pair"]["over_valued"] == SIMPO
    assert document["win_rate"] == "sigmoid"


def test_audit_prints_a_table_with_both_win_rates(charm: Run) -> None:
    result = charm("audit", "scores.parquet", "--reference", MINI)
    assert result.returncode == 0, result.stderr
    assert "sigmoid" in result.stdout
    assert "hard" in result.stdout
    assert f"Most worth calibrating: {SIMPO} against {MINI}" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith(SIMPO))
    assert row.rstrip().endswith("over-valued")
    words = " ".join(result.stdout.split())
    for verdict in ("Over-valued, under-valued: surely", "Not shown:", "Too few prompts:"):
        assert verdict in words


def test_the_stages_hand_their_files_on(charm: Run, tmp_path: Path) -> None:
    made = charm(*CALIBRATE, "--out", "offsets.json", "--json")
    assert made.returncode == 0, made.stderr
    written = json.loads((tmp_path / "offsets.json").read_text(encoding="utf-8"))
    assert json.loads(made.stdout) == written
    assert written["made_by"]["command"].startswith("charm calibrate scores.parquet")
    assert len(written["made_by"]["inputs"]["scores.parquet"]) == 64
    pairs = charm(
        *("pairs", "scores.parquet", "--offsets", "offsets.json"),
        *("--responses", "responses.parquet", "--out", "pairs.jsonl", "--json"),
    )
    assert pairs.returncode == 0, pairs.stderr
    summary = json.loads(pairs.stdout)
    assert summary["n_pairs"] == 60
    assert summary["n_flipped"] > 0
    frame = pl.read_ndjson(tmp_path / "pairs.jsonl")
    assert frame.columns[:5] == ["prompt_id", "sample", "prompt", "chosen", "rejected"]
    twin = charm(
        *("pairs", "scores.parquet", "--offsets", "offsets.json", "--uncalibrated"),
        *("--out", "twin"),
    )
    assert twin.returncode == 0, twin.stderr
    assert "0 flipped" in twin.stderr
    assert (tmp_path / "twin" / "state.json").exists()


def test_offsets_by_category_and_jointly_hand_on_to_pairs(charm: Run, tmp_path: Path) -> None:
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    scores = make_scores(120).with_columns(topic=(number % 2).cast(pl.String))
    scores.write_parquet(tmp_path / "topics.parquet")
    for name, options in (
        ("topics", (*CALIBRATE[2:], "--by", "topic")),
        ("plain", (*CALIBRATE[2:], "--by", "topic", "--no-shrink")),
        ("joint", ("--joint", "--reference", MINI)),
        ("hard", ("--joint", "--reference", MINI, "--win-rate", "hard")),
    ):
        made = charm("calibrate", "topics.parquet", *options, "--out", f"{name}.json")
        assert made.returncode == 0, made.stderr
    document = json.loads((tmp_path / "topics.json").read_text(encoding="utf-8"))
    assert [entry["category"] for entry in document["offsets"]] == ["0", "1"]
    joint = json.loads((tmp_path / "joint.json").read_text(encoding="utf-8"))
    assert len(joint["offsets"]) == len(joint["joint"]["residuals"]) - 1 == 3
    hard = json.loads((tmp_path / "hard.json").read_text(encoding="utf-8"))
    assert hard["joint"]["gradient_norm"] is None
    assert all(e["offset_low"] <= e["offset"] <= e["offset_high"] for e in hard["offsets"])
    pairs = ("pairs", "topics.parquet", "--out", "p.parquet", "--force", "--offsets")
    assert charm(*pairs, "topics.json", "--by", "topic").returncode == 0
    assert "no column 'category'" in refused(charm(*pairs, "topics.json"))
    every = charm(*pairs, "joint.json", "--select", "all", "--per-prompt", "2", "--json")
    counts = json.loads(every.stdout)
    assert counts["n_pairs"] == 240
    words = charm(*pairs, "joint.json", "--select", "all", "--per-prompt", "2").stderr
    for policy, flips in counts["flips"].items():
        share = f"{counts['chosen_share'][policy]:.3f}"
        assert f"{policy}: chosen in {share} of its pairs, has a part in {flips} flips" in words


def test_audits_by_category_and_by_two_tables_are_tables_and_json(
    charm: Run, tmp_path: Path
) -> None:
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    scores = make_scores(120).with_columns(topic=(number % 2).cast(pl.String))
    scores.write_parquet(tmp_path / "topics.parquet")
    by_topic = ("audit", "topics.parquet", "--by", "topic")
    shown = charm(*by_topic).stdout
    assert "0 (60)" in shown
    row = next(line for line in shown.splitlines() if line.startswith(SIMPO))
    assert row.count("over +") == 2
    assert "few: too few prompts to tell. no word: not shown." in " ".join(shown.split())
    categories = json.loads(charm(*by_topic, "--json").stdout)["categories"]
    assert set(categories) == {"0", "1"}
    verdicts = {p["policy"]: p["verdict"] for p in categories["0"]["policies"]}
    assert verdicts[SIMPO] == "over-valued"
    assert verdicts[MINI] == "reference"
    tables = ("audit", "scores.parquet", "--elo", "table9-old", "--elo", "table9-updated")
    changes = charm(*tables, "--rated-only", "--json")
    document = json.loads(changes.stdout)
    assert [table["name"] for table in document["tables"]] == ["table9-old", "table9-updated"]
    assert "changed" in charm(*tables, "--rated-only").stdout
    assert charm(*by_topic, "--elo", "table7", "--elo", "table9-old").returncode == 2
    assert "no column 'colour'" in refused(charm("audit", "topics.parquet", "--by", "colour"))


def test_cross_validation_prints_a_table_and_writes_nothing(charm: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    shown = charm(*CALIBRATE, "--cross-validate", "3")
    assert shown.returncode == 0, shown.stderr
    assert "one offset" in shown.stdout
    document = json.loads(charm(*CALIBRATE, "--cross-validate", "3", "--json").stdout)
    assert document["n_folds"] == 3
    assert {row["win_rate"] for row in document["rows"]} == {"sigmoid", "hard"}
    assert sorted(tmp_path.iterdir()) == before


def write_labels(folder: Path) -> None:
    """Preference pairs of the first policy against the second; two in five go to the second."""
    rows = [(f"p{i:03d}", *((SIMPO, MINI) if i % 5 < 3 else (MINI, SIMPO))) for i in range(60)]
    names = ["prompt_id", "chosen_policy", "rejected_policy"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(folder / "labels.csv")


def test_a_temperature_from_labels_is_said_used_and_recorded(charm: Run, tmp_path: Path) -> None:
    write_labels(tmp_path)
    labelled = ("--temperature-from", "labels.csv")
    audit = charm("audit", "scores.parquet", "--reference", MINI, *labelled, "--json")
    document = json.loads(audit.stdout)
    fit = document["temperature_fit"]
    assert document["temperature"] == fit["temperature"] != 1.0
    assert (fit["n_labels"], fit["n_prompts"], fit["n_unscored"]) == (60, 60, 0)
    assert audit.stderr.startswith(f"temperature {fit['temperature']:.4g} score points per unit")
    made = charm(*CALIBRATE, *labelled, "--out", "o.json", "--json")
    written = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert json.loads(made.stdout) == written
    assert written["temperature"] == written["made_by"]["temperature_fit"]["temperature"]
    assert "labels.csv" in written["made_by"]["inputs"]
    held = json.loads(charm(*CALIBRATE, *labelled, "--cross-validate", "3", "--json").stdout)
    assert held["temperature"] == 1.0
    assert held["temperature_fit"] == fit
    assert "temperature, one offset" in [row["method"] for row in held["rows"]]
    shown = charm(*CALIBRATE, *labelled, "--cross-validate", "3").stdout
    assert "Temperature: fitted to the labels of the other parts" in shown


def test_corrections_of_every_score_hand_on_to_audit_and_pairs(charm: Run) -> None:
    made = charm(*CALIBRATE, "--method", "z-score", "--out", "z.parquet")
    assert made.returncode == 0, made.stderr
    assert "the other policies: mean Mismatch Degree" in made.stderr
    assert "wrote z.parquet: scores of 'toy-rm, z-scores'" in made.stderr
    audit = json.loads(charm("audit", "z.parquet", "--reference", MINI, "--json").stdout)
    assert audit["reward_model"] == "toy-rm, z-scores"
    pairs = ("pairs", "z.parquet", "--policy", SIMPO, "--policy", MINI, "--json")
    both = [charm(*pairs, "--out", "a.jsonl"), charm(*pairs, "--uncalibrated", "--out", "b.jsonl")]
    flipped = [json.loads(result.stdout)["n_flipped"] for result in both]
    assert flipped[0] > flipped[1] == 0
    length = (*CALIBRATE, "--method", "length", "--out", "l.csv", "--json")
    assert "no column 'n_tokens', so no lengths" in refused(charm(*length))
    document = json.loads(charm(*length, "--responses", "responses.parquet").stdout)
    assert document["out"] == "l.csv"
    assert document["before"]["signed_mismatch"] != document["after"]["signed_mismatch"]
    assert set(document["made_by"]["inputs"]) == {"scores.parquet", "responses.parquet"}


def test_pairs_of_raw_scores_must_be_asked_for(charm: Run) -> None:
    pairs = ("pairs", "scores.parquet", "--out", "p.jsonl")
    assert "give --offsets, or --uncalibrated" in refused(charm(*pairs))
    assert charm(*pairs, "--uncalibrated").returncode == 0


def test_the_closed_form_writes_an_offsets_file(charm: Run, tmp_path: Path) -> None:
    made = charm(*CALIBRATE, "--method", "probit", "--out", "o.json")
    assert made.returncode == 0, made.stderr
    assert json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))["method"] == "probit"
    pairs = charm("pairs", "scores.parquet", "--offsets", "o.json", "--out", "p.jsonl")
    assert pairs.returncode == 0, pairs.stderr


def test_calibrate_can_leave_out_what_has_no_elo(charm: Run, tmp_path: Path) -> None:
    write_unrated(tmp_path)
    joint = ("calibrate", "unrated.parquet", "--joint", "--reference", MINI, "--out", "o.json")
    assert "--rated-only to leave it out" in refused(charm(*joint))
    result = charm(*joint, "--rated-only", "--json")
    assert len(json.loads(result.stdout)["offsets"]) == 2
    assert "left out, without Elo: my-model" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--over-valued", SIMPO, "--cross-validate", "1"),
        ("--joint", "--cross-validate", "5"),
        ("--joint", "--over-valued", SIMPO),
        ("--joint", "--by", "topic"),
        ("--joint", "--method", "probit"),
        ("--over-valued", SIMPO, "--by", "topic", "--method", "z-score"),
        ("--over-valued", SIMPO, "--method", "z-score"),
        ("--over-valued", SIMPO, "--out", "scores.csv"),
        ("--over-valued", SIMPO, "--temperature", "2", "--temperature-from", "labels.csv"),
        (
            *("--over-valued", SIMPO, "--method", "length", "--out", "l.csv"),
            *("--temperature-from", "labels.csv"),
        ),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    charm: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    write_labels(tmp_path)
    result = charm("calibrate", "scores.parquet", "--reference", MINI, "--out", "o.json", *options)
    assert result.returncode == 2


def test_two_runs_with_one_seed_write_the_same_bytes(charm: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert charm(*CALIBRATE, "--out", "o.json", "--force").returncode == 0
        (tmp_path / "o.json").rename(tmp_path / f"o{_}.json")
    assert (tmp_path / "o0.json").read_bytes() == (tmp_path / "o1.json").read_bytes()


def test_names_with_brackets_are_shown_as_they_are(charm: Run, tmp_path: Path) -> None:
    named = make_scores(60).with_columns(reward_model=pl.lit("rm[v2] [/x]"))
    named.write_parquet(tmp_path / "named.parquet")
    assert "rm[v2] [/x]: win rate" in charm("audit", "named.parquet").stdout


def test_a_warning_is_a_line_on_standard_error(charm: Run, tmp_path: Path) -> None:
    tiny = make_scores(60).with_columns(pl.col("score") * 0.002)
    tiny.write_parquet(tmp_path / "tiny.parquet")
    result = charm("audit", "tiny.parquet", "--json")
    assert result.returncode == 0
    json.loads(result.stdout)
    assert result.stderr.startswith("warning: sigmoid and hard win rates differ by more than 0.05")


def write_unrated(folder: Path) -> None:
    """Scores of which one policy has no Elo."""
    unrated = make_scores(60).with_columns(pl.col("policy").replace(SIMPO, "my-model"))
    unrated.write_parquet(folder / "unrated.parquet")


def test_rated_only_leaves_out_what_has_no_elo(charm: Run, tmp_path: Path) -> None:
    write_unrated(tmp_path)
    result = charm("audit", "unrated.parquet", "--rated-only", "--json")
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["policies"]) == 3
    assert "left out, without Elo: my-model" in result.stderr


@pytest.mark.parametrize("arguments", [("audit",), ("audit", "a", "--win-rate", "soft"), ("adit",)])
def test_wrong_usage_ends_with_status_2(charm: Run, arguments: tuple[str, ...]) -> None:
    assert charm(*arguments).returncode == 2


def test_the_version_is_one_line(charm: Run) -> None:
    from charm_rm import __version__

    assert charm("--version").stdout == f"charm-rm {__version__}\n"


def test_margin_bands_and_caps_reach_the_pairs(charm: Run) -> None:
    assert charm(*CALIBRATE, "--out", "o.json").returncode == 0
    pairs = ("pairs", "scores.parquet", "--offsets", "o.json", "--out", "p.parquet", "--json")
    whole = json.loads(charm(*pairs).stdout)
    banded = json.loads(charm(*pairs, "--force", "--min-margin", "1", "--max-margin", "2").stdout)
    assert 0 < banded["n_pairs"] < whole["n_pairs"]
    assert banded["n_pairs"] + banded["n_outside"] == whole["n_pairs"]


def test_help_names_every_stage(charm: Run) -> None:
    result = charm("--help")
    assert result.returncode == 0
    for word in ("score", "audit", "calibrate", "pairs", "demo"):
        assert word in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from charm_rm.cli import main; "
        "print([m for m in ('numpy', 'polars', 'scipy', 'torch', 'altair') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
