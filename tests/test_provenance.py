"""Scores say how they were made, and are not mixed where that differs."""

import json
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest
from builders import MINI, SIMPO, make_scores

from charm_rm.cli.main import main
from charm_rm.data.provenance import library_versions, read_provenance, write_scores
from charm_rm.data.scores import read_scores
from charm_rm.data.tables import DataError

Split = Callable[..., list[Path]]

MODEL = {"reward_model": "toy-rm", "weights": "0f", "dtype": "bfloat16", "max_length": 2048}
ALL_KINDS = pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Scores in two files, one of each half of the policies, made by these settings."""

    def write(
        first: dict[str, object] | None, second: dict[str, object] | None, suffix: str = ".parquet"
    ) -> list[Path]:
        scores = make_scores(60)
        names = scores["policy"].unique().sort().to_list()
        paths = [tmp_path / f"{half}{suffix}" for half in ("first", "second")]
        for path, policies, model in zip(
            paths, (names[:2], names[2:]), (first, second), strict=True
        ):
            made_by = {"version": "0.1.0"} | ({"model": model} if model else {})
            some = scores.filter(pl.col("policy").is_in(policies))
            write_scores(some, path, made_by=made_by, force=True)
        return paths

    return write


@ALL_KINDS
def test_what_made_a_table_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    made_by = {"version": "0.1.0", "model": MODEL, "n_truncated": 3}
    write_scores(make_scores(30), path, made_by=made_by)
    assert read_provenance(path) == made_by
    assert len(read_scores([path])) == 120


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_that_was_changed_no_longer_has_its_provenance(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    write_scores(make_scores(30), path, made_by={"model": MODEL})
    path.write_text(path.read_text() + "\n")
    assert read_provenance(path) is None


def test_a_table_of_other_origin_has_none(tmp_path: Path) -> None:
    make_scores(30).write_parquet(tmp_path / "scores.parquet")
    (tmp_path / "scores.csv").write_text("policy,score\na,1\n")
    for name in ("scores.parquet", "scores.csv", "no-such-file.csv", "."):
        assert read_provenance(tmp_path / name) is None


@ALL_KINDS
def test_files_scored_in_one_way_are_read_together(split: Split, suffix: str) -> None:
    assert len(read_scores(split(MODEL, MODEL, suffix))) == 240
    assert len(read_scores(split(None, None, suffix))) == 240


@ALL_KINDS
def test_files_scored_in_different_ways_are_refused_with_what_differs(
    split: Split, suffix: str
) -> None:
    paths = split(MODEL, MODEL | {"dtype": "float32", "max_length": 512}, suffix)
    with pytest.raises(DataError) as refused:
        read_scores(paths)
    assert str(refused.value) == (
        f"{paths[0]}, {paths[1]}: scored in different ways (dtype 'bfloat16' and 'float32', "
        "max_length 2048 and 512); score them in one way, or give --mix-provenance"
    )
    assert len(read_scores(paths, mix_provenance=True)) == 240


@pytest.mark.parametrize("silent", [0, 1])
def test_a_file_that_does_not_say_is_not_mixed_with_one_that_does(
    split: Split, silent: int
) -> None:
    paths = split(None, MODEL) if silent == 0 else split(MODEL, None)
    with pytest.raises(DataError, match=f"{paths[silent].name}: does not say how it was scored"):
        read_scores(paths)
    assert len(read_scores(paths, mix_provenance=True)) == 240


@pytest.mark.parametrize("command", ["audit", "calibrate", "cross-validate", "pairs"])
def test_every_command_refuses_a_mixture_unless_told_to_take_it(
    split: Split,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mixture = [str(path) for path in split(MODEL, MODEL | {"exact": True})]
    pair = ["--over-valued", SIMPO, "--reference", MINI]
    offsets = str(tmp_path / "offsets.json")
    arguments = {
        "audit": ["audit", *mixture, "--reference", MINI],
        "calibrate": ["calibrate", *mixture, *pair, "--out", offsets],
        "cross-validate": ["calibrate", *mixture, *pair, "--cross-validate", "2"],
        "pairs": ["pairs", *mixture, "--offsets", offsets, "--out", str(tmp_path / "p.parquet")],
    }

    def charm(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["charm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code)), capsys.readouterr().err

    if command == "pairs":
        assert charm(*arguments["calibrate"], "--mix-provenance")[0] == 0
    status, words = charm(*arguments[command])
    assert status == 1
    assert "scored in different ways (exact None and True)" in words.splitlines()[-1]
    assert charm(*arguments[command], "--mix-provenance")[0] == 0


def test_the_bundled_scores_say_how_they_were_made() -> None:
    path = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")
    made_by = read_provenance(path)
    assert made_by is not None
    assert made_by["model"]["dtype"] == "bfloat16"
    assert made_by["n_truncated"] == pl.read_parquet(path)["truncated"].sum()
    assert "/" not in json.dumps(made_by["inputs"])


def test_versions_are_those_of_what_is_installed() -> None:
    assert library_versions(["polars", "no-such-library"]) == {"polars": pl.__version__}
