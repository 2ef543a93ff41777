"""Prompts from the files that people have: found, checked, counted, never collapsed silently."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.preferences import write_preferences
from charm_rm.data.prompt_ids import sample_prompts
from charm_rm.data.prompt_report import report_prompts
from charm_rm.data.prompt_sources import expand_folders, shared_turns
from charm_rm.data.prompts import (
    as_messages,
    collect_prompts,
    last_user_prompt,
    prompt_digest,
    read_prompts,
    write_prompts,
)
from charm_rm.data.tables import DataError

Write = Callable[..., Path]
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=3)}
    ),
    max_size=6,
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(rows: list[Any], name: str = "prompts.jsonl") -> Path:
        path = tmp_path / name
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
        return path

    return write


def texts(frame: pl.DataFrame) -> list[str]:
    return [messages[-1]["content"] for messages in frame["prompt"].to_list()]


def test_every_form_of_the_same_prompts_gives_the_same_table(write: Write, tmp_path: Path) -> None:
    asked = ["Who was Ada?", 'Say "hi", then\nstop.']
    turns = [[user(text)] for text in asked]
    files = [
        write([{"prompt": text} for text in asked]),
        write([{"instruction": text} for text in asked], "instruction.jsonl"),
        write([{"messages": messages} for messages in turns], "messages.jsonl"),
        write([{"prompt": json.dumps(messages)} for messages in turns], "encoded.jsonl"),
        write([{"conversation": [*m, assistant("Yes.")]} for m in turns], "answered.jsonl"),
        write(
            [{"chosen": [*m, assistant("a")], "rejected": [*m, assistant("b")]} for m in turns],
            "preferences.jsonl",
        ),
        tmp_path / "prompts.csv",
        tmp_path / "prompts.parquet",
        tmp_path / "prompts.json",
        tmp_path / "hub",
    ]
    pl.DataFrame({"prompt": asked}).write_csv(tmp_path / "prompts.csv")
    pl.DataFrame({"prompt": turns}).write_parquet(tmp_path / "prompts.parquet")
    (tmp_path / "prompts.json").write_text(json.dumps(asked))
    write_preferences(pl.DataFrame({"messages": turns}), tmp_path / "hub")
    for file in files:
        frame = read_prompts([file], source="s")
        assert frame.columns == ["prompt_id", "prompt", "category", "source"]
        assert frame["prompt"].to_list() == turns, file
        assert frame["prompt_id"].to_list() == [prompt_digest(as_messages(t)) for t in asked], file


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffé one\n\nthree\u2028still three".encode())
    found = collect_prompts([tmp_path / "p.txt"])
    assert texts(found.frame) == ["é one", "three\u2028still three"]
    assert found.dropped == {"empty user turn": ("p.txt: row 2",)}


def test_a_conversation_is_cut_after_the_last_user_turn_and_counted(write: Write) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [
        [system, user("a"), assistant("b"), user("c"), assistant("d"), assistant("e")],
        [user("a"), assistant("b"), user("c")],
    ]
    found = collect_prompts([write([{"messages": row} for row in rows])])
    assert found.frame["prompt"].to_list() == [rows[0][:4], rows[1]]
    assert found.n_cut == 1


@given(MESSAGES)
def test_a_prompt_begins_its_conversation_and_ends_with_a_user(
    messages: list[dict[str, str]],
) -> None:
    prompt = last_user_prompt(messages)
    assert prompt == messages[: len(prompt)]
    assert [m["role"] for m in prompt[-1:]] in ([], ["user"])
    assert "user" not in [m["role"] for m in messages[len(prompt) :]]


@given(MESSAGES, MESSAGES, MESSAGES)
def test_shared_turns_are_the_longest_common_beginning(
    stem: list[dict[str, str]], one: list[dict[str, str]], other: list[dict[str, str]]
) -> None:
    a, b = stem + one, stem + other
    shared = shared_turns(a, b)
    assert shared == shared_turns(b, a) == a[: len(shared or [])] == b[: len(shared or [])]
    lengths = [n for n in range(len(a) + 1) if a[:n] == b[:n] and n <= len(b)]
    assert len(shared or []) == max(lengths)


def test_preference_rows_that_differ_early_keep_what_both_sides_share(write: Write) -> None:
    chosen = [user("a"), assistant("b"), user("c"), assistant("d")]
    rows = [
        {"chosen": chosen, "rejected": [user("a"), assistant("x"), user("c"), assistant("d")]},
        {"chosen": chosen, "rejected": chosen},
        {"chosen": chosen, "rejected": [user("z"), assistant("d")]},
        {"chosen": chosen, "rejected": None},
    ]
    found = collect_prompts([write(rows)])
    assert texts(found.frame) == ["a", "c"]
    assert found.dropped == {
        "no user turn": ("prompts.jsonl: row 3",),
        "no prompt": ("prompts.jsonl: row 4",),
    }


def test_rows_without_a_prompt_are_dropped_with_the_reason_and_the_row(write: Write) -> None:
    rows = [
        {"messages": [user("a")]},
        {"messages": [user(" \n\u3000")]},
        {"messages": []},
        {"messages": None},
        {"messages": [{"role": "system", "content": "Be brief."}]},
    ]
    found = collect_prompts([write(rows)])
    assert (found.n_rows, len(found.frame)) == (5, 1)
    assert {reason: [row[-1] for row in where] for reason, where in found.dropped.items()} == {
        "empty user turn": ["2"],
        "no user turn": ["3", "5"],
        "no prompt": ["4"],
    }


def test_a_strict_reader_names_the_first_row_without_a_prompt(write: Write) -> None:
    path = write([{"prompt": "a"}, {"prompt": " "}, {"prompt": None}])
    with pytest.raises(DataError, match=r"prompts\.jsonl: row 2: empty user turn \(2 such rows"):
        read_prompts([path])


def test_duplicates_are_kept_apart_by_id(write: Write) -> None:
    found = collect_prompts([write([{"prompt": text} for text in ("a", "b", "a", "a")])])
    first, second = (prompt_digest(as_messages(text)) for text in "ab")
    ids = [first, second, f"{first}-2", f"{first}-3"]
    assert found.frame["prompt_id"].to_list() == ids
    assert (found.n_duplicates, found.n_merged) == (2, 0)


def test_duplicates_are_merged_on_request_and_keep_a_known_category(write: Write) -> None:
    rows = [
        {"prompt_id": "1", "prompt": "a", "category": None},
        {"prompt_id": "2", "prompt": "b", "category": "Others"},
        {"prompt_id": "3", "prompt": "a", "category": "Factual QA"},
    ]
    found = collect_prompts([write(rows)], merge_duplicates=True)
    assert found.frame.select("prompt_id", "category").rows() == [
        ("1", "Factual QA"),
        ("2", "Others"),
    ]
    assert (found.n_duplicates, found.n_merged) == (1, 1)


def test_case_blanks_and_unicode_forms_make_different_prompts(write: Write) -> None:
    asked = ["Café", "Cafe\u0301", "café", "Café ", "👩‍🔬 \u0000?"]
    found = collect_prompts([write([{"prompt": text} for text in asked])], merge_duplicates=True)
    assert texts(found.frame) == asked
    assert found.n_duplicates == 0


def test_half_a_surrogate_pair_becomes_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(r'["good \ud83d\ude00", "bad \ud83d end"]')
    assert texts(read_prompts([tmp_path / "p.json"])) == ["good 😀", "bad \ufffd end"]


def test_an_id_that_came_with_the_data_is_kept_whatever_its_type(write: Write) -> None:
    path = write([{"key": 1001, "prompt": "a"}, {"key": 1002, "prompt": "a"}])
    assert read_prompts([path], id_column="key")["prompt_id"].to_list() == ["1001", "1002"]


def test_a_digest_gives_way_to_the_same_id_from_a_file(write: Write) -> None:
    digest = prompt_digest(as_messages("a"))
    with_id = write([{"prompt_id": digest, "prompt": "a"}], "ids.jsonl")
    ids = read_prompts([write([{"prompt": "a"}]), with_id])["prompt_id"].to_list()
    assert ids == [f"{digest}-2", digest]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "a"}, {"messages": [user("b")]}, {"instruction": "c"}],
            r"row 3: has prompts in 'instruction', not in 'prompt'; give all prompts of a file in",
        ),
        ([{"question": "a"}], r"no column of prompts .*it has question; name .* --prompt-column"),
        ([{"prompt": 3}], r"column 'prompt' holds Int64; prompts are texts or lists"),
        ([{"messages": [{"role": "human", "content": "a"}]}], r"row 1: role 'human' in a prompt"),
        ([{"messages": [{"role": "user"}]}], r"row 1: message .* needs 'role' and 'content'"),
        ([{"prompt": '[{"role": "user", oops'}], r"row 1: not a JSON list of messages"),
        ([{"prompt_id": None, "prompt": "a"}], r"row 1: prompt_id is null"),
        (
            [{"prompt_id": "p", "prompt": "a"}, {"prompt_id": "p", "prompt": "b"}],
            r"row 2: id 'p' stands for another prompt than in prompts\.jsonl: row 1",
        ),
        (
            [{"prompt_id": "p", "prompt": "a"}, {"prompt_id": "p", "prompt": "a"}],
            r"row 2: id 'p' stands in an earlier row too; .*--merge-duplicates",
        ),
        ([{"prompt": " "}], r"none of 1 rows has a usable prompt \(empty user turn\)"),
        ([{"prompt": "a", "category": ["x"]}], r"column 'category' holds List"),
    ],
)
def test_what_cannot_be_read_is_one_line(write: Write, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        collect_prompts([write(rows)])
    assert "\n" not in str(caught.value)


def test_texts_beside_lists_of_messages_are_user_turns(write: Write) -> None:
    path = write([{"prompt": "a"}, {"prompt": [user("b")]}, {"prompt": "c"}])
    assert read_prompts([path])["prompt"].to_list() == [[user(text)] for text in "abc"]


def test_json_beside_texts_in_a_csv_file_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text('prompt\na\n"[{""role"": ""user"", ""content"": ""b""}]"\nc\n')
    with pytest.raises(DataError, match=r"row 2: has lists of messages, the others plain text"):
        read_prompts([path])


def test_json_of_strings_and_other_things_names_the_others(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('["a", {"prompt": "b"}, 3]')
    with pytest.raises(DataError, match=r"p\.json: rows 2, 3: have no string"):
        collect_prompts([tmp_path / "p.json"])


def test_a_folder_of_shards_is_one_data_set_and_of_splits_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for n, text in enumerate("ab"):
        pl.DataFrame({"prompt": [text]}).write_parquet(data / f"train-0000{n}-of-00002.parquet")
    assert texts(read_prompts([tmp_path])) == ["a", "b"]
    pl.DataFrame({"prompt": ["c"]}).write_parquet(data / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"has 2 splits or tables \(test, train\); name"):
        read_prompts([tmp_path])


def test_the_one_split_of_a_saved_data_set_is_read(tmp_path: Path) -> None:
    write_preferences(pl.DataFrame({"prompt": ["a"]}), tmp_path / "train")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert expand_folders([tmp_path]) == [str(tmp_path / "train")]
    assert texts(read_prompts([tmp_path])) == ["a"]


@given(st.integers(0, 60), st.integers(0, 99), st.randoms())
def test_a_draw_is_nested_and_blind_to_order(n: int, seed: int, order: random.Random) -> None:
    ids = [f"p{i}" for i in range(60)]
    frame = pl.DataFrame({"prompt_id": ids})
    drawn = sample_prompts(frame, n, seed=seed)["prompt_id"].to_list()
    assert len(set(drawn)) == n
    assert drawn == [one for one in ids if one in drawn]
    assert set(drawn) <= set(sample_prompts(frame, min(n + 1, 60), seed=seed)["prompt_id"])
    shuffled = sample_prompts(pl.DataFrame({"prompt_id": order.sample(ids, 60)}), n, seed=seed)
    assert set(shuffled["prompt_id"]) == set(drawn)


def test_every_prompt_is_drawn_equally_often_over_seeds() -> None:
    frame = pl.DataFrame({"prompt_id": [f"p{i}" for i in range(20)]})
    drawn = pl.concat([sample_prompts(frame, 5, seed=seed) for seed in range(400)])
    counts = drawn["prompt_id"].value_counts()["count"]
    # 100 expected of each; the standard deviation of a count is about 8.7
    assert len(counts) == 20
    assert counts.min() >= 65  # type: ignore[operator]
    assert counts.max() <= 135  # type: ignore[operator]


def test_more_prompts_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="3 prompts to be drawn of 2 usable ones"):
        sample_prompts(pl.DataFrame({"prompt_id": ["a", "b"]}), 3)


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_what_was_written_reads_back_the_same(write: Write, tmp_path: Path, name: str) -> None:
    rows = [
        {"messages": [user("a"), assistant("b"), user("é\n👩‍🔬")], "category": "Others"},
        {"messages": [user("c")], "category": None},
        {"messages": [user("c")], "category": None},
    ]
    frame = read_prompts([write(rows)])
    write_prompts(frame, tmp_path / name)
    assert read_prompts([tmp_path / name]).equals(frame)


def test_a_csv_is_refused_as_output_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give one of \.parquet, \.jsonl"):
        write_prompts(pl.DataFrame({"prompt_id": ["a"]}), tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_report_counts_turns_as_worked_by_hand(write: Write) -> None:
    system = {"role": "system", "content": "xy"}
    rows = [
        [user("abc")],
        [system, user("a"), assistant("b"), user("c")],
        [user("a"), user("bcdefg")],
    ]
    report = report_prompts(read_prompts([write([{"messages": row} for row in rows])]))
    assert (report.n_prompts, report.n_multi_turn, report.n_with_system) == (3, 2, 1)
    assert report.n_not_alternating == 1
    assert report.user_turns == {1: 1, 2: 2}
    assert report.chars == {"p5": 3, "p25": 3, "p50": 5, "p75": 7, "p95": 7, "p100": 7}


def test_human_preferences_give_the_turns_that_both_sides_share(shared: Path) -> None:
    path = shared / "data/preferences/hh_harmless_test.parquet"
    found = collect_prompts([path])
    assert (found.n_rows, len(found.frame), found.n_duplicates) == (2312, 2312, 2)
    raw = pl.read_parquet(path)
    ends = [
        chosen[n - 1]["role"] == "user" and len(prompt) == n
        for chosen, n, prompt in zip(
            raw["chosen"].to_list(),
            raw["n_shared_turns"].to_list(),
            found.frame["prompt"].to_list(),
            strict=True,
        )
    ]
    assert all(ends)
    assert found.n_cut == 0
