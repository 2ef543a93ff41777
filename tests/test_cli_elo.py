"""``charm elo`` as scripts and people meet it: list, show, fit, import, and one-line errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from charm_rm.data.arena import read_elo

Run = Callable[..., "subprocess.CompletedProcess[str]"]

BATTLES = """model_a,model_b,winner,timestamp
x,y,model_a,2025-06-01
x,y,model_b,2025-06-02
y,z,model_a,2025-06-02
y,z,tie,2025-06-02
z,x,both_bad,2025-06-03
z,x,model_b,2025-06-03
"""


@pytest.fixture
def charm(tmp_path: Path) -> Run:
    """Runs `charm elo` in a folder with battles.csv in it."""
    (tmp_path / "battles.csv").write_text(BATTLES)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", "from charm_rm.cli.main import main; main()", "elo", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=os.environ | {"COLUMNS": "140", "PYTHONWARNINGS": "error"},
            timeout=120,
            check=False,
        )

    return run


def test_list_names_the_bundled_tables_with_their_dates(charm: Run) -> None:
    result = charm("list")
    assert result.returncode == 0, result.stderr
    assert "table7             2025-03-03      24  chatbot-arena text overall" in result.stdout
    rows = json.loads(charm("list", "--json").stdout)
    assert rows[0] == {
        "name": "table7",
        "date": "2025-03-03",
        "models": 24,
        "board": "chatbot-arena text overall",
    }
    assert [row["name"] for row in rows] == [
        *("table7", "table7-as-printed", "table9-old", "table9-updated")
    ]


def test_show_prints_one_table(charm: Run) -> None:
    result = charm("show", "table9-old")
    assert result.returncode == 0, result.stderr
    assert "gemma-2-9b-it-SimPO     1216.0" in result.stdout
    document = json.loads(charm("show", "table7", "--json").stdout)
    assert document["ratings"][0] == {
        "model": "gpt-4o-2024-05-13",
        "elo": 1285.0,
        "elo_low": 1283.0,
        "elo_high": 1288.0,
        "votes": 117731,
    }


def test_fit_writes_a_table_that_audit_can_read(charm: Run, tmp_path: Path) -> None:
    result = charm("fit", "battles.csv", "--anchor", "z", "--anchor-elo", "900", "--out", "elo.csv")
    assert result.returncode == 0, result.stderr
    assert "6 battles, z held at 900; intervals: sandwich." in result.stdout
    assert "wrote elo.csv" in result.stderr
    table = read_elo(tmp_path / "elo.csv")
    assert (table.board, table.date) == ("battles", "2025-06-03")
    assert table.models == ["x", "y", "z"]
    assert table.ratings(["z"])[0].tolist() == [900, 900, 900]
    assert table.frame["votes"].to_list() == [4, 4, 4]
    assert json.loads(charm("show", "elo.csv", "--json").stdout)["errors"] == "covariance"


def test_a_file_in_place_of_a_command_is_fitted(charm: Run) -> None:
    named, plain = charm("fit", "battles.csv", "--json"), charm("battles.csv", "--json")
    assert plain.returncode == 0, plain.stderr
    documents = [json.loads(result.stdout) for result in (named, plain)]
    made_by = [document.pop("made_by") for document in documents]
    assert documents[0] == documents[1]
    assert made_by[1]["command"] == "charm elo battles.csv --json"
    assert documents[0]["n_battles"] == 6
    assert documents[0]["interval"] == "sandwich"


def test_one_seed_gives_the_same_bootstrap_intervals(charm: Run) -> None:
    arguments = ("fit", "battles.csv", "--resamples", "50", "--seed", "3", "--json")
    once, again = charm(*arguments), charm(*arguments)
    assert once.stdout == again.stdout
    assert json.loads(once.stdout)["n_resamples"] == 50


def test_style_control_is_reported(charm: Run, tmp_path: Path) -> None:
    rows = pl.DataFrame(
        {
            "model_a": ["x", "y", "x", "y"] * 5,
            "model_b": ["y", "x", "y", "x"] * 5,
            "winner": ["model_a", "model_a", "model_b", "tie"] * 5,
            "response_a": ["long " * 9, "short", "a", "b"] * 5,
            "response_b": ["short", "long " * 7, "long " * 3, "b"] * 5,
        }
    )
    rows.write_csv(tmp_path / "texts.csv")
    result = charm("fit", "texts.csv", "--style-control")
    assert result.returncode == 0, result.stderr
    assert "style: length +" in result.stdout
    assert "texts style-controlled" in result.stdout
    assert "warning: style feature 'bold' never differs; it was left out" in result.stderr


def test_real_votes_are_fitted(charm: Run, shared: Path) -> None:
    votes = str(shared / "data/arena/mt_bench_votes.parquet")
    result = charm(votes, "--vote-type", "human", "--anchor", "gpt-4", "--json")
    document = json.loads(result.stdout)
    assert document["n_battles"] == 3355
    assert [row["model"] for row in document["ratings"]] == [
        *("gpt-4", "claude-v1", "gpt-3.5-turbo", "vicuna-13b-v1.2", "alpaca-13b", "llama-13b")
    ]


def test_import_takes_one_board_under_the_users_names(
    charm: Run, tmp_path: Path, shared: Path
) -> None:
    source = str(shared / "data/arena/leaderboards.parquet")
    (tmp_path / "names.txt").write_text("gpt4_0613\nvicuna-7b\ngpt4_0613_verbose\n")
    result = charm(
        *("import", source, "--date", "2025-03-03", "--source", "chatbot-arena-history"),
        *("--board", "chatbot-arena text", "--names", "names.txt", "--out", "elo.csv"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "warning: no rating for 'gpt4_0613_verbose': nearest: gpt-4-0613" in result.stderr
    table = read_elo(tmp_path / "elo.csv")
    assert table.board == "chatbot-arena text text_overall"
    assert table.models == ["gpt4_0613", "vicuna-7b"]
    assert table.ratings(["vicuna-7b"])[0, 0] == pytest.approx(1004.656, abs=1e-3)


def test_import_as_json_says_which_names_matched(charm: Run, shared: Path) -> None:
    source = str(shared / "data/arena/leaderboards.parquet")
    result = charm("import", source, "--date", "2025-03-04", "--names", "gpt4_0613,zzz", "--json")
    document = json.loads(result.stdout)
    assert document["matched"] == {"gpt4_0613": "GPT-4-0613"}
    assert list(document["unmatched"]) == ["zzz"]
    assert document["date"] == "2025-03-04"


@pytest.mark.parametrize(
    "arguments",
    [("lst",), ("fit",), ("import",), ("fit", "a", "--seed"), ("a.csv", "--resamples", "1")],
)
def test_wrong_usage_ends_with_status_2(charm: Run, arguments: tuple[str, ...]) -> None:
    assert charm(*arguments).returncode == 2
