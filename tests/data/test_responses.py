"""Responses in the layouts that people have, and the rows that are refused."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from charm_rm.data.prompts import as_messages, prompt_digest
from charm_rm.data.responses import RESPONSE_COLUMNS, conversation, read_responses
from charm_rm.data.tables import DataError


def write(tmp_path: Path, rows: list[dict[str, Any]], name: str = "r.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_alpaca_eval_json_is_read_with_digests_as_ids(tmp_path: Path) -> None:
    rows = [
        {"dataset": "d", "instruction": "Hi", "output": "Hello", "generator": "a"},
        {"dataset": "d", "instruction": "Bye", "output": "", "generator": "a"},
    ]
    (tmp_path / "model_outputs.json").write_text(json.dumps(rows), encoding="utf-8")
    frame = read_responses([tmp_path / "model_outputs.json"])
    assert frame.columns == list(RESPONSE_COLUMNS)
    assert frame["prompt_id"].to_list() == [prompt_digest(as_messages(t)) for t in ("Hi", "Bye")]
    assert frame["response"].to_list() == ["Hello", ""]


def test_the_same_prompt_has_the_same_id_as_text_and_as_messages(tmp_path: Path) -> None:
    text = write(tmp_path, [{"prompt": "Hi", "response": "x", "policy": "a"}], "a.jsonl")
    messages = [{"role": "user", "content": "Hi"}]
    turns = write(tmp_path, [{"messages": messages, "output": "y", "model": "b"}], "b.jsonl")
    frame = read_responses([text, turns])
    assert frame["prompt_id"].n_unique() == 1
    assert frame["policy"].to_list() == ["a", "b"]


@pytest.mark.parametrize("name", ["mixed.jsonl", "mixed.json"])
def test_prompts_may_be_texts_and_messages_in_one_file(tmp_path: Path, name: str) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ho"}]
    rows: list[dict[str, Any]] = [GOOD, GOOD | {"prompt": turns}, GOOD | {"prompt": "[1] Hm"}]
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_responses([tmp_path / name])
    assert found["prompt"].to_list() == [as_messages("Hi"), turns, as_messages("[1] Hm")]
    assert found["prompt_id"][0] == prompt_digest(as_messages("Hi"))


def test_an_id_that_came_with_the_data_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt_id": 7, "prompt": "Hi", "response": "x", "policy": "a"}])
    assert read_responses([path])["prompt_id"].to_list() == ["7"]


def test_rows_in_another_order_join_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": p, "response": p.upper(), "policy": "a"} for p in ("one", "two", "three")]
    forward = read_responses([write(tmp_path, rows, "f.jsonl")])
    backward = read_responses([write(tmp_path, rows[::-1], "b.jsonl")])
    key = ["prompt_id"]
    assert forward.sort(key).equals(backward.sort(key))


def test_a_conversation_ends_with_the_response(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "Hi", "response": "x", "policy": "a"}])
    row = read_responses([path]).row(0, named=True)
    assert conversation(row) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "x"},
    ]


def test_a_category_is_carried_where_every_file_has_it(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "response": "x", "policy": "a", "category": "math"}
    with_category = write(tmp_path, [row], "a.jsonl")
    assert read_responses([with_category])["category"].to_list() == ["math"]
    without = write(tmp_path, [{"prompt": "Hi", "response": "x", "policy": "b"}], "b.jsonl")
    assert "category" not in read_responses([with_category, without]).columns


GOOD = {"prompt": "Hi", "response": "x", "policy": "a"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD | {"response": None}, GOOD], "row 1: response is null"),
        ([GOOD, GOOD | {"policy": None}], "row 2: policy is null"),
        ([GOOD, GOOD], "policy 'a', sample 0 stands more than once"),
        (
            [GOOD | {"prompt_id": "p"}, GOOD | {"prompt_id": "p", "prompt": "Ho", "policy": "b"}],
            "prompt_id 'p' stands for 2 different prompts",
        ),
        ([{"prompt": "Hi", "policy": "a"}], "no column 'response'"),
        ([{"prompt": [{"role": "user"}], "response": "x", "policy": "a"}], "row 1: message"),
        ([{"prompt": None, "response": "x", "policy": "a"}], "row 1: prompt is None"),
        (
            [{"prompt": [{"role": "user", "content": None}], "response": "x", "policy": "a"}],
            "'role' and 'content' must be texts",
        ),
        (
            [GOOD, GOOD | {"prompt": '[{"role": "user", "content": "Ho"}]'}],
            "row 2: the prompt is a list of messages written as text",
        ),
        ([{"prompt": 3, "response": "x", "policy": "a"}], "row 1: prompt is 3"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    path = write(tmp_path, rows)
    with pytest.raises(DataError, match=message) as caught:
        read_responses([path])
    assert str(caught.value).startswith(str(path))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    schema = {"prompt": pl.String, "response": pl.String, "policy": pl.String}
    pl.DataFrame(schema=schema).write_parquet(tmp_path / "r.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_responses([tmp_path / "r.parquet"])


def test_no_files_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="no responses given"):
        read_responses([])


def test_real_outputs_of_20_policies_have_805_prompts_each(shared: Path) -> None:
    frame = read_responses([shared / "data/alpaca_eval/outputs.parquet"])
    assert len(frame) == 20 * 805
    assert frame["prompt_id"].n_unique() == 805
    empty = frame.filter(frame["response"] == "").group_by("policy").len().sort("policy")
    assert empty.rows() == [("gemini-pro", 1), ("gemma-2b-it", 22)]
