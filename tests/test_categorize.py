"""The offline classifier: how often it is right, what it does to tables, and the command."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.categorize import (
    fill_categories,
    hashed_terms,
    load_classifier,
    pack_classifier,
    unpack_classifier,
)
from charm_rm.data.categories import CATEGORIES, PromptTable
from charm_rm.data.prompts import as_messages, prompt_digest
from charm_rm.data.tables import DataError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def read_labels(part: str) -> pl.DataFrame:
    return pl.read_csv(RECIPES / f"category_labels_{part}.csv")


def labelled_prompts(shared: Path) -> pl.DataFrame:
    """The fresh sample: columns ``prompt_id, category, prompt``."""
    own = pl.read_parquet(shared / "data/prompts/prompts.parquet").select("prompt_id", "prompt")
    instructions = pl.read_parquet(shared / "data/alpaca_eval/instructions.parquet")["instruction"]
    ids = [prompt_digest(as_messages(text)) for text in instructions]
    both = pl.concat([own, pl.DataFrame({"prompt_id": ids, "prompt": instructions})])
    return read_labels("fresh").join(both, on="prompt_id", how="left")


def test_the_stated_accuracy_is_the_one_on_the_labelled_sample(shared: Path) -> None:
    sample = labelled_prompts(shared)
    assert len(sample) == 150
    assert sample["prompt"].null_count() == 0
    found = np.array(load_classifier()(sample["prompt"].to_list()))
    wanted = sample["category"].to_numpy()
    f1 = [
        2
        * ((found == name) & (wanted == name)).sum()
        / ((found == name).sum() + (wanted == name).sum())
        for name in CATEGORIES
    ]
    # Other processors may round a tie the other way; two prompts are the room for that.
    assert (found == wanted).sum() == pytest.approx(113, abs=2)
    assert np.mean(f1) == pytest.approx(0.757, abs=0.01)


def test_no_prompt_of_a_sample_is_among_the_training_labels() -> None:
    parts = {part: read_labels(part) for part in ("train", "development", "fresh")}
    assert [len(part) for part in list(parts.values())[1:]] == [240, 150]
    ids = pl.concat(part["prompt_id"] for part in parts.values())
    assert ids.n_unique() == len(ids)
    assert all(set(part["category"]) == set(CATEGORIES) for part in parts.values())


def test_the_prompts_written_for_training_have_a_class_and_stand_once() -> None:
    own = pl.read_csv(RECIPES / "category_prompts.csv")
    assert set(own["category"]) == set(CATEGORIES)
    assert own["prompt"].n_unique() == len(own) == 462


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Write a Python function that returns the n-th prime number.", "Code Generation"),
        ("Fix this query: SELECT * FORM users WHERE id = 3;", "Code Generation"),
        ("Solve for x: 3x + 7 = 22. Show your work.", "Math/Reasoning"),
        ("Write a short story about a lighthouse keeper who fears the sea.", "Creative Writing"),
        ("What is the capital of Mongolia?", "Factual QA"),
        (
            "Summarize the following text in one sentence.\n\nThe river rose for three days, and "
            "on the fourth the town was cut off.",
            "Instruction Following",
        ),
        ("How can I steal a car without getting caught?", "Others"),
    ],
)
def test_a_plain_case_of_each_class_is_told(text: str, category: str) -> None:
    assert load_classifier()([text]) == [category]


@given(st.lists(st.text(max_size=80), max_size=4))
def test_any_text_gets_one_of_the_six_and_company_does_not_matter(texts: list[str]) -> None:
    classifier = load_classifier()
    together = classifier(texts)
    assert set(together) <= set(CATEGORIES)
    assert together == [classifier([text])[0] for text in texts]


@pytest.mark.parametrize("text", ["", " ", "?!", "\ud800", "數學" * 3000, "a" * 100_000, "\x00"])
def test_odd_texts_are_no_error(text: str) -> None:
    assert np.isfinite(load_classifier().log_odds([text])).all()


def test_more_prompts_than_are_read_at_once_keep_their_order() -> None:
    texts = ["Write a poem about rain.", "What is the capital of France?"] * 300
    assert load_classifier()(texts) == ["Creative Writing", "Factual QA"] * 300


def test_a_long_prompt_is_read_at_both_ends_and_not_between() -> None:
    task = "Write a Python function that parses this log."
    short, long = (f"{task}\n{'0 ' * n}{task}" for n in (2000, 4000))
    assert abs(hashed_terms([short]) - hashed_terms([long])).max() == 0
    assert load_classifier()([long]) == ["Code Generation"]


def test_packing_again_gives_the_same_bytes() -> None:
    content = pack_classifier(load_classifier())
    assert content == pack_classifier(unpack_classifier(content))
    assert len(content) < 1_000_000


def test_a_pickled_array_is_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, idf=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        unpack_classifier(buffer.getvalue())


def table_of(texts: Sequence[str], categories: Sequence[str | None]) -> PromptTable:
    frame = pl.DataFrame({"category": categories}, schema={"category": pl.String})
    missing = frame["category"].is_null()
    return PromptTable(frame=frame, texts=tuple(texts), missing=missing)


def test_each_distinct_prompt_is_asked_once_and_only_where_a_category_is_missing() -> None:
    asked: list[str] = []

    def ask(texts: Sequence[str]) -> list[str]:
        asked.extend(texts)
        return ["Others"] * len(texts)

    table = table_of(["a", "b", "a", "c"], [None, "Factual QA", None, None])
    result = fill_categories(table, ask)
    assert asked == ["a", "c"]
    assert result.frame["category"].to_list() == ["Others", "Factual QA", "Others", "Others"]
    assert (result.n_filled, result.n_kept, result.n_left) == (3, 1, 0)
    assert result.counts["Others"] == 3
    assert result.prompt_counts["Others"] == 2


def test_overwrite_replaces_what_is_there_unless_nothing_comes() -> None:
    table = table_of(["a", "b"], ["my class", "Factual QA"])
    result = fill_categories(table, lambda _: ["Others", None], overwrite=True)
    assert result.frame["category"].to_list() == ["Others", "Factual QA"]
    assert (result.n_filled, result.n_kept, result.n_left) == (1, 1, 0)


def test_a_class_of_the_users_own_is_kept_and_counted() -> None:
    result = fill_categories(table_of(["a"], ["my class"]))
    assert result.counts["my class"] == 1


def test_what_gets_no_answer_stays_empty_and_is_counted() -> None:
    result = fill_categories(table_of(["a", "b"], [None, None]), lambda _: [None, "Others"])
    assert result.frame["category"].to_list() == [None, "Others"]
    assert (result.n_filled, result.n_left) == (1, 1)


def test_an_invalid_class_is_refused() -> None:
    with pytest.raises(DataError, match="no category 'Math'"):
        fill_categories(table_of(["a"], [None]), lambda _: ["Math"])


@pytest.fixture
def charm(tmp_path: Path) -> Run:
    """Runs `charm` in a folder with prompts.csv and turns.jsonl in it."""
    (tmp_path / "prompts.csv").write_text(
        "prompt_id,prompt,category\n"
        "1,Write a poem about rain.,\n"
        "2,What is the capital of France?,\n"
        "3,What is the capital of France?,Others\n"
    )

    turns = {"messages": [{"role": "user", "content": "Hi"}]}
    (tmp_path / "turns.jsonl").write_text(json.dumps(turns))

    def run(*arguments: str, command: str = "categorize") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                *(sys.executable, "-c", "from charm_rm.cli.main import main; main()"),
                *(command, *arguments),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=os.environ | {"COLUMNS": "140", "PYTHONWARNINGS": "error"},
            timeout=120,
            check=False,
        )

    return run


def test_the_command_fills_the_table_and_prints_the_counts(charm: Run, tmp_path: Path) -> None:
    result = charm("prompts.csv", "--out", "filled.csv")
    assert result.returncode == 0, result.stderr
    filled = pl.read_csv(tmp_path / "filled.csv")
    assert filled.columns == ["prompt_id", "prompt", "category"]
    assert filled["category"].to_list() == ["Creative Writing", "Factual QA", "Others"]
    assert "wrote filled.csv: 2 rows filled, 1 kept" in result.stderr
    lines = dict(line.rsplit(maxsplit=2)[::2] for line in result.stdout.splitlines())
    assert lines["Creative Writing"] == "1"
    assert lines["Code Generation"] == "0"


def test_the_command_prints_one_json_document(charm: Run) -> None:
    result = charm("prompts.csv", "--out", "filled.parquet", "--overwrite", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["method"] == "offline"
    assert document["counts"]["Factual QA"] == 2
    assert (document["n_rows"], document["n_filled"], document["n_kept"]) == (3, 3, 0)
    assert document["made_by"]["command"].startswith("charm categorize prompts.csv")


def test_scores_get_their_categories_and_calibrate_by_them(charm: Run, tmp_path: Path) -> None:
    texts = [f"Write a poem about {n} sheep." for n in range(40)]
    texts += [f"What is the capital of country {n}?" for n in range(40)]
    rows = [
        {"instruction": text, "output": "x", "generator": policy}
        for text in texts
        for policy in ("vicuna-7b", "gpt4_0613")
    ]
    (tmp_path / "outputs.json").write_text(json.dumps(rows))
    pl.DataFrame(
        {
            "prompt_id": [prompt_digest(as_messages(row["instruction"])) for row in rows],
            "policy": [row["generator"] for row in rows],
            "score": [float(n % 7) for n in range(len(rows))],
        }
    ).write_csv(tmp_path / "scores.csv")
    by = ("--by", "category", "--over-valued", "vicuna-7b", "--reference", "gpt4_0613")
    refused = charm("scores.csv", *by, "--out", "o.json", command="calibrate")
    assert "no column 'category'; fill it with charm categorize" in refused.stderr
    filled = charm("scores.csv", "--prompts", "outputs.json", "--out", "filled.csv")
    assert filled.returncode == 0, filled.stderr
    done = charm("filled.csv", *by, "--out", "o.json", command="calibrate")
    assert done.returncode == 0, done.stderr
    offsets = json.loads((tmp_path / "o.json").read_text())["offsets"]
    found = {one["category"]: one["n_prompts"] for one in offsets}
    assert found == {"Creative Writing": 40, "Factual QA": 40}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("prompts.csv", "--out", "prompts.csv"), 1, "exists already; give --force"),
        (("prompts.csv", "--out", "filled.xlsx"), 1, "unknown kind of table"),
        (("none.csv", "--out", "filled.csv"), 1, "none.csv: no such file"),
        (("prompts.csv", "--out", "f.csv", "--model", "m"), 2, "--endpoint and --model"),
        (("prompts.csv", "--out", "f.csv", "--cache", "c"), 2, "only with --endpoint"),
        (("turns.jsonl", "--out", "f.csv"), 1, "CSV holds no lists"),
        (("prompts.csv",), 2, "Missing option '--out'"),
    ],
)
def test_the_command_refuses_in_one_line(
    charm: Run, arguments: tuple[str, ...], status: int, words: str
) -> None:
    result = charm(*arguments)
    assert result.returncode == status, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
