"""``charm prompts`` and ``charm responses`` as scripts and people meet them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROMPTS = """{"prompt": "Who was Ada?", "category": "Factual QA"}
{"prompt": "  ", "category": null}
{"prompt": "Who was Ada?", "category": null}
{"prompt": "Add 2 and 3.", "category": "Math/Reasoning"}
"""
RESPONSES = """{"prompt": "Who was Ada?", "model": "a", "output": "<think>Hm.</think>A countess."}
{"prompt": "Add 2 and 3.", "model": "a", "output": "I'm sorry, but I can't do that."}
{"prompt": "Add 2 and 3.", "model": "b", "output": ""}
{"prompt": "Add 2 and 3.", "model": "c", "output": null}
"""


@pytest.fixture
def charm(tmp_path: Path) -> Run:
    """Runs `charm` in a folder with prompts.jsonl and responses.jsonl in it."""
    (tmp_path / "prompts.jsonl").write_text(PROMPTS)
    (tmp_path / "responses.jsonl").write_text(RESPONSES)

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


def one_error_line(result: "subprocess.CompletedProcess[str]") -> str:
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_prompts_are_written_and_every_row_accounted_for(charm: Run, tmp_path: Path) -> None:
    result = charm("prompts", "prompts.jsonl", "--out", "p.parquet", "--source", "mine")
    assert result.returncode == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "dropped: empty user turn 1 (first: prompts.jsonl: row 2)" in lines
    assert "duplicates 1 (kept, each with an id of its own)" in lines
    assert "sources mine 3" in lines
    assert result.stderr == "wrote p.parquet: 3 prompts\n"
    assert pl.read_parquet(tmp_path / "p.parquet").columns == [
        *("prompt_id", "prompt", "category", "source")
    ]


def test_prompts_json_is_one_document_and_needs_no_output(charm: Run, tmp_path: Path) -> None:
    arguments = ("--sample", "1", "--seed", "3", "--merge-duplicates", "--json")
    result = charm("prompts", "prompts.jsonl", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["made_by"]["command"].startswith("charm prompts prompts.jsonl --sample 1")
    assert {key: document[key] for key in ("n_rows", "n_usable", "n_merged", "n_prompts")} == {
        "n_rows": 4,
        "n_usable": 2,
        "n_merged": 1,
        "n_prompts": 1,
    }
    assert document["dropped"] == {"empty user turn": {"n": 1, "rows": ["prompts.jsonl: row 2"]}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.jsonl", "responses.jsonl"]
    assert charm("prompts", "prompts.jsonl", *arguments).stdout == result.stdout


def test_prompts_refuses_in_one_line(charm: Run, tmp_path: Path) -> None:
    assert "5 prompts to be drawn of 3" in one_error_line(
        charm("prompts", "prompts.jsonl", "--sample", "5", "--out", "p.jsonl")
    )
    assert "give one of .parquet, .jsonl" in one_error_line(
        charm("prompts", "prompts.jsonl", "--out", "p.csv")
    )
    assert "no-such.jsonl: no such file" in one_error_line(charm("prompts", "no-such.jsonl"))
    assert "exists already" in one_error_line(
        charm("prompts", "prompts.jsonl", "--out", "prompts.jsonl")
    )
    assert "is an input of this run" in one_error_line(
        charm("prompts", "prompts.jsonl", "--out", "prompts.jsonl", "--force")
    )
    assert (tmp_path / "prompts.jsonl").read_text() == PROMPTS


def test_responses_are_imported_checked_and_joined_to_their_prompts(
    charm: Run, tmp_path: Path
) -> None:
    charm("prompts", "prompts.jsonl", "--merge-duplicates", "--out", "p.parquet")
    result = charm(
        *("responses", "import", "responses.jsonl", "--prompts", "p.parquet", "--out", "r.jsonl")
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == [
        "left out, no response: 1 (first: responses.jsonl: row 4)",
        "wrote r.jsonl: 3 responses of 2 policies to 2 prompts; all policies answered 0 of them",
    ]
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert (rows[0]["response"], rows[0]["reasoning"]) == ("A countess.", "Hm.")
    assert [row["category"] for row in rows] == ["Factual QA", *["Math/Reasoning"] * 2]
    check = charm("responses", "check", "r.jsonl", "--json")
    assert (check.returncode, check.stderr) == (0, "")
    a, b = json.loads(check.stdout)["policies"]
    assert (a["coverage"], a["n_refusals"], a["n_reasoning"], a["n_empty"]) == (1.0, 1, 1, 0)
    assert (b["coverage"], b["n_missing"], b["n_empty"], b["chars"]) == (0.5, 1, 1, {})
    table = charm("responses", "check", "r.jsonl").stdout.splitlines()
    assert table[2].split() == ["b", "1", "0.500", "1", "1", *"000", "0", "-", "-", "-"]


def test_responses_refuses_in_one_line(charm: Run) -> None:
    assert "no column 'answer'" in one_error_line(
        charm("responses", "check", "responses.jsonl", "--response-column", "answer")
    )
    assert "give --policy NAME" in one_error_line(
        charm("responses", "check", "prompts.jsonl", "--response-column", "category")
    )
    assert "is an input of this run" in one_error_line(
        charm("responses", "import", "responses.jsonl", "--out", "responses.jsonl", "--force")
    )
