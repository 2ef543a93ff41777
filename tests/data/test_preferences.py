"""Preference data as people load it: datasets, and TRL's own collation."""

import json
from pathlib import Path

import polars as pl
import pytest
from builders import make_responses, make_scores

from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import read_elo
from charm_rm.data.preferences import read_labels, write_preferences
from charm_rm.data.prompts import as_messages, prompt_digest
from charm_rm.data.tables import DataError, read_table
from charm_rm.pairs import build_pairs


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    scores = make_scores()
    calibration = calibrate_pair(
        scores,
        read_elo("table7"),
        over_valued="gemma-2-9b-it-SimPO",
        reference="gpt-4o-mini-2024-07-18",
        n_resamples=10,
    )
    return build_pairs(scores, calibration, responses=make_responses(scores)).frame


def test_load_from_disk_opens_the_directory(tmp_path: Path, frame: pl.DataFrame) -> None:
    import datasets

    write_preferences(frame, tmp_path / "pairs")
    loaded = datasets.load_from_disk(str(tmp_path / "pairs"))
    assert loaded.column_names == frame.columns
    assert loaded[3] == frame.row(3, named=True)
    assert loaded[0]["chosen"][0]["role"] == "assistant"


def test_trl_sees_conversational_preferences_with_an_explicit_prompt(
    tmp_path: Path, frame: pl.DataFrame
) -> None:
    import datasets
    from trl.data_utils import is_conversational

    write_preferences(frame, tmp_path / "pairs")
    row = datasets.load_from_disk(str(tmp_path / "pairs"))[0]
    assert is_conversational({key: row[key] for key in ("prompt", "chosen", "rejected")})


def test_our_own_reader_opens_the_directory_that_datasets_wrote(
    tmp_path: Path, frame: pl.DataFrame
) -> None:
    import datasets

    datasets.Dataset.from_list(frame.to_dicts()).save_to_disk(str(tmp_path / "theirs"))
    assert read_table(tmp_path / "theirs").to_dicts() == frame.to_dicts()


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl", "pairs"])
def test_every_format_holds_the_same_rows(tmp_path: Path, frame: pl.DataFrame, name: str) -> None:
    write_preferences(frame, tmp_path / name)
    assert read_table(tmp_path / name).to_dicts() == frame.to_dicts()


def test_the_directory_is_replaced_only_with_force_and_only_if_it_is_a_data_set(
    tmp_path: Path, frame: pl.DataFrame
) -> None:
    write_preferences(frame, tmp_path / "pairs")
    with pytest.raises(DataError, match="exists already"):
        write_preferences(frame, tmp_path / "pairs")
    write_preferences(frame.head(2), tmp_path / "pairs", force=True)
    assert len(read_table(tmp_path / "pairs")) == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds other things than a data set"):
        write_preferences(frame, tmp_path / "thesis", force=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs", "thesis"]


def test_an_unknown_format_is_refused(tmp_path: Path, frame: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="unknown kind of preference data"):
        write_preferences(frame, tmp_path / "pairs.csv")


def test_json_lines_are_plain_objects(tmp_path: Path, frame: pl.DataFrame) -> None:
    write_preferences(frame, tmp_path / "pairs.jsonl")
    first = json.loads((tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["prompt"] == frame["prompt"][0].to_list()


def test_labels_are_read_from_pairs_from_a_judge_and_from_votes(
    tmp_path: Path, frame: pl.DataFrame
) -> None:
    write_preferences(frame, tmp_path / "pairs.parquet")
    pairs = read_labels([tmp_path / "pairs.parquet"])
    assert pairs["policy_a"].to_list() == frame["chosen_policy"].to_list()
    assert set(pairs["outcome"]) == {1.0}
    judged = [
        {"instruction": "Hi", "generator_1": "a", "generator_2": "b", "preference": 1.0},
        {"instruction": "Ho", "generator_1": "a", "generator_2": "b", "preference": 1.75},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(judged), encoding="utf-8")
    hi = prompt_digest(as_messages("Hi"))
    found = read_labels([tmp_path / "annotations.json"])
    assert found.row(0) == (hi, 0, "a", "b", 1.0)
    assert found["outcome"].to_list() == [1.0, 0.25]
    (tmp_path / "votes.csv").write_text(
        "prompt_id,model_a,model_b,winner\n7,a,b,tie (bothbad)\n7,a,b,model_b\n"
    )
    votes = read_labels([tmp_path / "votes.csv", tmp_path / "annotations.json"])
    assert votes["outcome"].to_list() == [0.5, 0.0, 1.0, 0.25]
    assert votes.row(0) == ("7", 0, "a", "b", 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt_id,chosen,rejected\np,x,y\n", "no labelled pairs: neither chosen_policy"),
        ("prompt_id,model_a,model_b,winner\np,a,b,draw\n", "winner is 'draw'"),
        ("chosen_policy,rejected_policy\na,b\n", "no column 'prompt_id'"),
        ("prompt_id,chosen_policy,rejected_policy\n", "no rows"),
        ("prompt_id,chosen_policy,rejected_policy\np,a,a\n", "row 1 is .*a label needs"),
        ("prompt_id,chosen_policy,rejected_policy\np,a,b\n,a,b\n", "row 2 is .*a label needs"),
        (
            "prompt_id,generator_1,generator_2,preference\np,a,b,2\np,a,b,0\n",
            "row 2: preference is 0; it must be 1",
        ),
        ("prompt_id,generator_1,generator_2,preference\np,a,b,\n", "row 1: preference is None"),
    ],
)
def test_labels_that_cannot_be_trusted_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels([tmp_path / "labels.csv"])
    with pytest.raises(DataError, match="name at least one file"):
        read_labels([])
