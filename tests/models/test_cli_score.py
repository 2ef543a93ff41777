"""``charm score`` as a user meets it: files in, files out, one line per mistake."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from charm_rm.cli.score import SUFFIXES, score
from charm_rm.data.provenance import read_provenance
from charm_rm.data.scores import read_scores
from charm_rm.data.tables import write_table
from charm_rm.models.scoring import BATCH_TOKENS

MakeModel = Callable[..., Path]
Charm = Callable[..., tuple[int, str, str]]

COMMAND = [sys.executable, "-c", "from charm_rm.cli.main import main; main()"]


def write_outputs(path: Path, *, n_prompts: int = 6) -> Path:
    """An AlpacaEval file; policy b is silent on the first prompt."""
    words = {"a": "hello ", "b": "world "}
    rows = [
        {
            "dataset": "helpful_base",
            "instruction": f"hello w{prompt % 40} w{prompt // 40}",
            "output": "" if (policy, prompt) == ("b", 0) else words[policy] * (1 + prompt % 30),
            "generator": policy,
        }
        for policy in words
        for prompt in range(n_prompts)
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_outputs(tmp_path / "model_outputs.json")


def test_responses_become_a_table_of_scores(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    status, printed, words = charm(
        "score", outputs, "--reward-model", make(name="my-rm"), "--out", out, "--dtype", "float32"
    )
    assert (status, printed) == (0, "")
    scores = read_scores([out])
    assert len(scores) == 12
    assert scores["reward_model"].unique().to_list() == ["my-rm"]
    last = words.splitlines()[-1]
    assert "12 scores of 2 policies" in last
    assert "0 truncated, 1 empty" in last
    assert not (tmp_path / "scores.parquet.parts").exists()


def test_json_is_one_document_on_standard_output(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    status, printed, _ = charm(
        *("score", outputs, "--reward-model", make(), "--out", out, "--json"),
        *("--max-length", 12, "--dtype", "bfloat16", "--batch-tokens", 30),
    )
    assert status == 0
    document = json.loads(printed)
    scores = read_scores([out])
    assert document["n_responses"] == 12
    assert document["n_tokens"] == scores["n_tokens"].sum()
    assert document["n_truncated"] == scores["truncated"].sum() > 0
    assert document["n_empty"] == 1
    assert document["tokens_per_second"] > 0
    assert document["made_by"]["model"]["dtype"] == "bfloat16"
    assert str(outputs) in document["made_by"]["inputs"]
    assert read_provenance(out) == document["made_by"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_output_says_how_it_was_made(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"scores{suffix}"
    arguments = ("--reward-model", make(name="rm"), "--max-length", 12, "--dtype", "float32")
    assert charm("score", outputs, *arguments, "--out", out)[0] == 0
    made_by = read_provenance(out)
    assert made_by is not None
    assert made_by["command"].startswith(f"charm score {outputs} --reward-model")
    assert len(made_by["inputs"][str(outputs)]) == 64
    assert made_by["n_truncated"] == read_scores([out])["truncated"].sum() > 0
    assert {"charm-rm", "torch", "transformers", "tokenizers"} <= made_by["libraries"].keys()
    model = made_by["model"]
    assert (model["reward_model"], model["dtype"], model["max_length"]) == ("rm", "float32", 12)
    assert (model["bos"], model["exact"], model["revision"]) == (True, False, None)
    assert len(model["weights"]) == len(model["template"]) == 16


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_output_holds_the_same_scores(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path, suffix: str
) -> None:
    folder = make()
    first, other = tmp_path / "first.parquet", tmp_path / f"other{suffix}"
    for out in (first, other):
        assert charm("score", outputs, "--reward-model", folder, "--out", out)[0] == 0
    assert read_scores([other])["score"].to_list() == read_scores([first])["score"].to_list()


def test_one_policy_can_be_scored_alone(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    arguments = ("score", outputs, "--reward-model", make(), "--out", out, "--policy")
    assert charm(*arguments, "b")[0] == 0
    assert read_scores([out])["policy"].unique().to_list() == ["b"]
    status, _, words = charm(*arguments, "bb", "--force")
    assert (status, words) == (1, "error: responses: no policy 'bb'; nearest: b\n")


def test_progress_off_a_terminal_starts_with_the_tokens_to_do(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    words = charm("score", outputs, "--reward-model", make(), "--out", out)[2]
    n_tokens = read_scores([out])["n_tokens"].sum()
    assert f"0 of {n_tokens:,} tokens" in words


def test_the_default_budget_is_that_of_the_library() -> None:
    assert inspect.signature(score).parameters["batch_tokens"].default == BATCH_TOKENS


# Mistakes: one line, status 1, nothing written


def refused(charm: Charm, tmp_path: Path, *arguments: object) -> str:
    before = sorted(tmp_path.rglob("*"))
    status, printed, words = charm("score", *arguments)
    lines = [line for line in words.splitlines() if line.startswith("error: ")]
    assert (status, printed, len(lines)) == (1, "", 1)
    assert words.splitlines()[-1] == lines[0]
    assert sorted(tmp_path.rglob("*")) == before
    return lines[0]


def test_an_existing_output_is_refused_and_kept_without_force(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    out.write_text("mine")
    arguments = (outputs, "--reward-model", make(), "--out", out)
    assert "exists already; give --force" in refused(charm, tmp_path, *arguments)
    assert out.read_text() == "mine"
    assert charm("score", *arguments, "--force")[0] == 0
    assert len(read_scores([out])) == 12


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("scores.xlsx", "unknown kind of table; give one of .parquet, .csv, .jsonl"),
        ("scores", "unknown kind of table"),
        ("no/such/scores.parquet", "folder does not exist"),
        ("folder.parquet", "is a directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    charm: Charm, tmp_path: Path, out: str, complaint: str
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    line = refused(charm, tmp_path, "no.json", "--reward-model", "no", "--out", tmp_path / out)
    assert complaint in line


def test_missing_responses_are_refused(charm: Charm, tmp_path: Path) -> None:
    arguments = ("--reward-model", "no", "--out", tmp_path / "scores.parquet")
    assert "no such file" in refused(charm, tmp_path, tmp_path / "no.json", *arguments)


def test_an_empty_prompt_is_refused_by_name(charm: Charm, make: MakeModel, tmp_path: Path) -> None:
    rows = {"prompt_id": ["p1"], "prompt": [" "], "policy": ["a"], "response": ["hello"]}
    path = tmp_path / "responses.parquet"
    write_table(pl.DataFrame(rows), path)
    arguments = (path, "--reward-model", make(), "--out", tmp_path / "scores.parquet")
    assert "prompt 'p1', policy 'a': message 0 (user) is empty" in refused(
        charm, tmp_path, *arguments
    )


def test_a_missing_reward_model_is_refused(charm: Charm, outputs: Path, tmp_path: Path) -> None:
    line = refused(
        charm, tmp_path, outputs, "--reward-model", "./no-rm", "--out", tmp_path / "scores.csv"
    )
    assert line.startswith("error: ./no-rm: no such directory")


def test_a_causal_language_model_is_refused(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path
) -> None:
    folder = make(causal=True)
    out = tmp_path / "scores.csv"
    line = refused(charm, tmp_path, outputs, "--reward-model", folder, "--out", out)
    assert "this is a causal language model" in line


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_a_missing_extra_is_one_line_with_the_cure(
    charm: Charm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == module else find(name)
    )
    line = refused(charm, tmp_path, "x.json", "--reward-model", "rm", "--out", "scores.csv")
    assert line == f"error: charm score needs {module}: pip install 'charm-rm[models]'"


@pytest.mark.parametrize("missing", ["--reward-model", "--out", "RESPONSES"])
def test_a_missing_argument_is_a_usage_error(charm: Charm, missing: str) -> None:
    given = {
        "RESPONSES": ["x.json"],
        "--reward-model": ["--reward-model", "rm"],
        "--out": ["--out", "o.csv"],
    }
    arguments = [word for name, words in given.items() if name != missing for word in words]
    status, _, words = charm("score", *arguments)
    assert status == 2
    assert missing in words


# A killed run


def test_a_killed_run_resumes_with_at_most_a_chunk_lost(
    charm: Charm, make: MakeModel, tmp_path: Path
) -> None:
    outputs = write_outputs(tmp_path / "outputs.json", n_prompts=300)
    out, parts = tmp_path / "scores.parquet", tmp_path / "scores.parquet.parts"
    arguments = [
        *("score", str(outputs), "--reward-model", str(make()), "--dtype", "float32"),
        *("--batch-tokens", "30"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "words").open("w") as words:
        running = subprocess.Popen(
            [*COMMAND, *arguments, "--out", str(out)], env=environment, stderr=words
        )
    try:
        while len(list(parts.glob("0*.parquet"))) < 5:
            assert running.poll() is None, (tmp_path / "words").read_text()
            time.sleep(0.005)
    finally:
        running.kill()
        assert running.wait() == -9
    assert not out.exists()
    kept = {path.name for path in parts.glob("0*.parquet")}
    n_kept = sum(len(pl.read_parquet(parts / name)) for name in kept)

    status, printed, _ = charm(*arguments, "--out", out, "--json")
    assert status == 0
    document = json.loads(printed)
    resumed = read_scores([out])
    assert charm(*arguments, "--out", tmp_path / "whole.parquet")[0] == 0
    assert resumed.equals(read_scores([tmp_path / "whole.parquet"]))
    shortest = int(resumed["n_tokens"].min())  # type: ignore[arg-type]
    assert document["n_tokens_this_run"] <= resumed["n_tokens"].sum() - n_kept * shortest
    assert not parts.exists()
