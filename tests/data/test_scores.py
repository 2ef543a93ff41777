"""Score tables and the matrix made of them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from charm_rm.data.scores import SCORE_SCHEMA, read_scores, score_matrix
from charm_rm.data.tables import DataError


def write(tmp_path: Path, text: str, name: str = "scores.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_plain_csv_is_enough(tmp_path: Path) -> None:
    frame = read_scores([write(tmp_path, "prompt_id,policy,score\n1,a,2\n1,b,3.5\n")])
    assert dict(frame.schema) == SCORE_SCHEMA
    assert frame["reward_model"].to_list() == ["unnamed", "unnamed"]
    assert frame["score"].to_list() == [2.0, 3.5]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "", "high"])
def test_a_score_that_is_no_finite_number_is_named_by_its_line(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"prompt_id,policy,score\n1,a,2\n1,b,{value}\n")
    with pytest.raises(DataError, match=r"scores.csv:3: score of 'b' is '.*'; mend that row"):
        read_scores([path])


def test_a_score_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt_id,policy,score\n1,a,2\n1,a,2\n")
    with pytest.raises(DataError, match="prompt '1', policy 'a', sample 0 stands more than once"):
        read_scores([path])


def test_a_repeat_across_two_files_is_refused(tmp_path: Path) -> None:
    text = "prompt_id,policy,score,reward_model\n1,a,2,rm\n"
    with pytest.raises(DataError, match="stands more than once"):
        read_scores([write(tmp_path, text, "a.csv"), write(tmp_path, text, "b.csv")])


def test_scores_of_two_reward_models_are_never_mixed(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, f"prompt_id,policy,score,reward_model\n1,{p},2,{rm}\n", f"{p}.csv")
        for p, rm in (("a", "rm-1"), ("b", "rm-2"))
    ]
    with pytest.raises(DataError, match="scores of 2 reward models"):
        read_scores(paths)


@pytest.mark.parametrize("column", ["prompt_id", "policy", "score"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    columns = [name for name in ("prompt_id", "policy", "score") if name != column]
    path = write(tmp_path, ",".join(columns) + "\n" + ",".join("1" for _ in columns) + "\n")
    with pytest.raises(DataError, match=f"no column '{column}'"):
        read_scores([path])


def test_a_row_without_a_policy_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt_id,policy,score\n1,,2\n")
    with pytest.raises(DataError, match=r"scores.csv:2: policy of None is 'None'"):
        read_scores([path])


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        read_scores([write(tmp_path, "prompt_id,policy,score\n")])
    with pytest.raises(DataError, match="no scores given"):
        read_scores([])


def test_the_matrix_pairs_on_the_prompt_whatever_the_order_of_the_rows() -> None:
    rows = [("q", "b", 0, 4.0), ("p", "a", 0, 1.0), ("p", "b", 0, 2.0), ("q", "a", 0, 3.0)]
    names = ["prompt_id", "policy", "sample", "score"]
    matrix = score_matrix(pl.DataFrame(rows, schema=names, orient="row"))
    assert matrix.policies == ("a", "b")
    assert matrix.prompt_ids == ("p", "q")
    assert matrix.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_missing_response_is_nan_and_samples_of_a_prompt_belong_together() -> None:
    rows = [("p", "a", 0, 1.0), ("p", "a", 1, 2.0), ("p", "b", 1, 3.0), ("q", "b", 0, 4.0)]
    names = ["prompt_id", "policy", "sample", "score"]
    matrix = score_matrix(pl.DataFrame(rows, schema=names, orient="row"))
    assert matrix.prompts.tolist() == [0, 0, 1]
    assert np.isnan(matrix.values[:, 1]).tolist() == [True, False, False]


def test_a_policy_without_scores_lists_the_nearest() -> None:
    rows = {"prompt_id": ["p"], "policy": ["vicuna-7b"], "sample": [0], "score": [1.0]}
    with pytest.raises(DataError, match="no policy 'vicuna-7B'; nearest: vicuna-7b"):
        score_matrix(pl.DataFrame(rows), ["vicuna-7B"])


@pytest.mark.parametrize("column", ["score", "raw_score"])
def test_a_mark_of_a_failed_response_is_no_score(tmp_path: Path, column: str) -> None:
    names = ["prompt_id", "policy", "score", "raw_score"]
    rows = pl.DataFrame([("p", "a", 1e30, -1e30), ("q", "a", 1.0, 1.0)], schema=names, orient="row")
    path = tmp_path / "scores.parquet"
    rows.write_parquet(path)
    assert read_scores([path])["score"].to_list() == [1e30, 1.0]
    rows.with_columns(
        pl.when(prompt_id="q").then(-3.4e38).otherwise(column).alias(column)
    ).write_parquet(path)
    with pytest.raises(DataError, match=rf"row 2: {column} of 'a' is '-3.4e\+38'; beyond 1e\+30"):
        read_scores([path])


def test_a_policy_may_be_called_like_one_of_our_columns() -> None:
    names = ("prompt_id", "sample", "row")
    rows = [("p", name, 0, float(at)) for at, name in enumerate(names)]
    frame = pl.DataFrame(rows, schema=["prompt_id", "policy", "sample", "score"], orient="row")
    assert score_matrix(frame, names).values.tolist() == [[0.0, 1.0, 2.0]]


def test_ids_and_names_that_look_like_numbers_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt_id,policy,score\n0001,1.10,2\n3e5,1.1,3\n")
    frame = read_scores([path])
    assert frame["prompt_id"].to_list() == ["0001", "3e5"]
    assert frame["policy"].to_list() == ["1.10", "1.1"]


def test_plain_files_of_one_reward_model_may_be_many(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, f"prompt_id,policy,score\n1,{name},2\n", f"{name}.csv") for name in "ab"
    ]
    assert read_scores(paths)["reward_model"].unique().to_list() == ["unnamed"]


@pytest.mark.parametrize("column", ["prompt_id", "policy", "score", "reward_model"])
def test_a_nested_column_is_refused_by_name(tmp_path: Path, column: str) -> None:
    row = {"prompt_id": "p", "policy": "a", "score": 1.0, "reward_model": "rm"}
    frame = pl.DataFrame({name: [[x] if name == column else x] for name, x in row.items()})
    frame.write_parquet(tmp_path / "s.parquet")
    with pytest.raises(DataError, match=f"column '{column}' holds List"):
        read_scores([tmp_path / "s.parquet"])
