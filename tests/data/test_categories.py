"""Tables with prompts, in the forms that people have, and what can't be used."""

import json
from pathlib import Path

import polars as pl
import pytest

from charm_rm.data.categories import (
    CATEGORIES,
    RULES,
    check_categories,
    read_prompt_table,
    user_text,
)
from charm_rm.data.prompts import as_messages, prompt_digest
from charm_rm.data.tables import DataError


def test_there_are_the_six_classes_of_the_paper_and_a_rule_for_each() -> None:
    assert set(CATEGORIES) == {
        *("Math/Reasoning", "Creative Writing", "Code Generation"),
        *("Factual QA", "Instruction Following", "Others"),
    }
    assert set(RULES) == set(CATEGORIES)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Who was Ada?", "policy": "a", "response": "A countess."},
        {"instruction": "Who was Ada?", "output": "A countess.", "generator": "a"},
        {"messages": [{"role": "user", "content": "Who was Ada?"}]},
        {"prompt": [{"role": "user", "content": "Who was Ada?"}], "chosen": "x", "rejected": "y"},
    ],
)
def test_prompts_are_found_in_every_layout_and_nothing_else_changes(
    tmp_path: Path, row: dict[str, object]
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps([row]))
    table = read_prompt_table([path])
    assert table.texts == ("Who was Ada?",)
    assert table.missing.to_list() == [True]
    assert table.frame.drop("category").rows() == pl.DataFrame([row]).rows()
    assert table.frame.columns == [*row, "category"]


def test_the_user_speaks_and_the_system_prompt_does_not_count() -> None:
    turns = [("system", "You write code."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "1+1?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert user_text(messages) == "Hi\n\n1+1?"
    assert user_text(messages[:1]) == "You write code."


def test_null_empty_and_blank_categories_are_missing_and_own_names_are_not(tmp_path: Path) -> None:
    categories = [None, "", "  ", "Others", "my class"]
    frame = pl.DataFrame({"prompt": list("abcde"), "category": categories})
    frame.write_parquet(tmp_path / "prompts.parquet")
    table = read_prompt_table([tmp_path / "prompts.parquet"])
    assert table.missing.to_list() == [True, True, True, False, False]


def test_a_category_column_of_nothing_but_nulls_is_text_afterwards(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["a"], "category": [None]}).write_parquet(tmp_path / "p.parquet")
    assert read_prompt_table([tmp_path / "p.parquet"]).frame.schema["category"] == pl.String


def test_files_of_one_kind_are_read_as_one_table(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["a"], "n": [1]}).write_csv(tmp_path / "one.csv")
    pl.DataFrame({"n": [2.5], "prompt": ["b"]}).write_csv(tmp_path / "two.csv")
    table = read_prompt_table([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert table.texts == ("a", "b")
    assert table.frame["n"].to_list() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"prompt_id": ["p"], "policy": ["a"], "score": [1.0]}, "no column of prompts"),
        ({"prompt": []}, "no rows"),
        ({"prompt": ["a", None]}, "row 2: prompt is None"),
        ({"prompt": [[{"role": "user", "text": "a"}]]}, "row 1: message .* needs 'role'"),
        ({"prompt": ["a"], "category": [3]}, "column 'category' is Int64, not text"),
    ],
)
def test_what_can_not_be_used_is_said_in_one_line(
    tmp_path: Path, frame: dict[str, list[object]], words: str
) -> None:
    path = tmp_path / "table.parquet"
    pl.DataFrame(frame).write_parquet(path)
    with pytest.raises(DataError, match=words) as caught:
        read_prompt_table([path])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def write_scores(folder: Path, ids: list[str]) -> Path:
    path = folder / "scores.parquet"
    rows = {"prompt_id": ids, "policy": ["m"] * len(ids), "score": [1.0] * len(ids)}
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_scores_find_their_prompts_and_known_categories_in_another_table(tmp_path: Path) -> None:
    pl.DataFrame(
        {"prompt_id": ["2", "1"], "prompt": ["b", "a"], "category": ["Others", None]}
    ).write_parquet(tmp_path / "responses.parquet")
    scores = write_scores(tmp_path, ["1", "2", "1"])
    table = read_prompt_table([scores], prompts=[tmp_path / "responses.parquet"])
    assert table.texts == ("a", "b", "a")
    assert table.frame["category"].to_list() == [None, "Others", None]
    assert table.missing.to_list() == [True, False, True]
    assert table.frame.drop("category").equals(pl.read_parquet(scores))


def test_prompts_without_an_id_are_found_by_their_digest(tmp_path: Path) -> None:
    rows = [{"instruction": "Hi", "output": "Hello", "generator": "m"}]
    (tmp_path / "outputs.json").write_text(json.dumps(rows))
    scores = write_scores(tmp_path, [prompt_digest(as_messages("Hi"))])
    table = read_prompt_table([scores], prompts=[tmp_path / "outputs.json"])
    assert table.texts == ("Hi",)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"prompt_id": ["1"], "prompt": ["a"]}, r"prompt '2' is not among those of --prompts \(1 "),
        ({"prompt_id": ["1", "1"], "prompt": ["a", "b"]}, "'1' stands for two prompts"),
        ({"prompt_id": ["1"]}, "no column of prompts"),
    ],
)
def test_prompts_that_do_not_fit_the_scores_are_refused(
    tmp_path: Path, prompts: dict[str, list[str]], words: str
) -> None:
    pl.DataFrame(prompts).write_parquet(tmp_path / "prompts.parquet")
    scores = write_scores(tmp_path, ["1", "2"])
    with pytest.raises(DataError, match=words):
        read_prompt_table([scores], prompts=[tmp_path / "prompts.parquet"])


def test_tables_of_two_kinds_are_refused_with_the_odd_columns(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["a"], "n": [1]}).write_csv(tmp_path / "one.csv")
    pl.DataFrame({"prompt": ["b"], "m": [1]}).write_csv(tmp_path / "two.csv")
    with pytest.raises(DataError, match=r"two\.csv: other columns than .*one\.csv \(m, n\)"):
        read_prompt_table([tmp_path / "one.csv", tmp_path / "two.csv"])


def test_no_table_is_refused() -> None:
    with pytest.raises(DataError, match="name at least one file"):
        read_prompt_table([])


def test_an_unknown_category_names_the_nearest() -> None:
    with pytest.raises(DataError, match="no category 'Factual Q&A'; nearest: Factual QA"):
        check_categories(["Others", "Factual Q&A"])
