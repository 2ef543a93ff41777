"""Responses imported from every layout that people have, and every row accounted for."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.prompts import as_messages, prompt_digest, read_prompts
from charm_rm.data.reasoning import split_reasoning
from charm_rm.data.response_order import reordered_policies
from charm_rm.data.response_sources import import_responses
from charm_rm.data.responses import read_responses
from charm_rm.data.tables import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def digest(text: str) -> str:
    return prompt_digest(as_messages(text))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def write(folder: Path, rows: list[Any], name: str = "r.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_alpaca(folder: Path, outputs: dict[str, list[tuple[str, str | None]]]) -> Path:
    for policy, rows in outputs.items():
        (folder / policy).mkdir(parents=True)
        data = [
            {"dataset": "d", "instruction": prompt, "output": text, "generator": policy}
            for prompt, text in rows
        ]
        (folder / policy / "model_outputs.json").write_text(json.dumps(data))
    return folder


def test_an_alpaca_eval_folder_is_joined_on_the_instruction(tmp_path: Path) -> None:
    folder = write_alpaca(
        tmp_path / "results",
        {
            "a": [("one", "1a"), ("two", "2a"), ("three", "")],
            "b": [("one", "1b"), ("two", "2b"), ("three", "3b")],
            "c": [("three", "3c"), ("one", "1c")],
            "d": [("one", None), ("two", "2d"), ("three", "3d")],
        },
    )
    found = import_responses([folder])
    assert found.n_rows == 11
    assert found.reordered == ("c",)
    assert found.dropped == {"no response": ("d/model_outputs.json: row 1",)}
    three = found.frame.filter(pl.col("prompt_id") == digest("three"))
    assert three.select("policy", "response").rows() == [
        ("a", ""),
        ("b", "3b"),
        ("c", "3c"),
        ("d", "3d"),
    ]


def test_the_imported_table_is_read_by_the_other_stages(tmp_path: Path) -> None:
    folder = write_alpaca(tmp_path / "results", {"a": [("one", "1"), ("two", "2")]})
    frame = import_responses([folder]).frame
    for name in ("r.parquet", "r.jsonl"):
        path = tmp_path / name
        _ = frame.write_parquet(path) if name == "r.parquet" else frame.write_ndjson(path)
        assert read_responses([path]).rows() == frame.drop("reasoning").rows()
        assert import_responses([path]).frame.equals(frame)


def test_battles_of_55k_give_the_first_turn_of_both_sides(tmp_path: Path) -> None:
    rows = {
        "id": [30192, 53567, 65089],
        "model_a": ["x", "y", "x"],
        "model_b": ["y", "z", "x"],
        "prompt": ['["Hi","And?"]', '["Bye"]', '["Who?"]'],
        "response_a": ['["Hello","So."]', "[null]", '["A \\ud83d"]'],
        "response_b": ['["Hey","Then."]', '["Ciao"]', '["B"]'],
        "winner_model_a": [1, 0, 0],
        "winner_model_b": [0, 1, 0],
        "winner_tie": [0, 0, 1],
    }
    path = tmp_path / "train.csv"
    pl.DataFrame(rows).write_csv(path)
    found = import_responses([path])
    assert found.frame.select("prompt_id", "policy", "sample", "response").rows() == [
        ("30192", "x", 0, "Hello"),
        ("30192", "y", 0, "Hey"),
        ("53567", "z", 0, "Ciao"),
        ("65089", "x", 0, "A \ufffd"),
        ("65089", "x", 1, "B"),
    ]
    assert found.frame["prompt"].to_list()[0] == [user("Hi")]
    assert (found.n_rows, found.n_later_turns, found.n_numbered) == (6, 2, 1)
    assert found.dropped == {"no response": ("train.csv: row 2",)}
    alone = import_responses([path], single_turn=True)
    assert alone.frame["prompt_id"].to_list() == ["53567", "65089", "65089"]
    assert len(alone.dropped["several turns"]) == 2


@pytest.mark.parametrize("name", ["100k.parquet", "100k.jsonl"])
def test_battles_of_100k_are_conversations(tmp_path: Path, name: str) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [
        {
            "question_id": "q1",
            "model_a": "x",
            "model_b": "y",
            "winner": "tie (bothbad)",
            "conversation_a": [system, user("Hi"), assistant("Hello")],
            "conversation_b": [system, user("Hi"), assistant("Hey")],
        },
        {
            "question_id": "q2",
            "model_a": "x",
            "model_b": "y",
            "winner": "model_a",
            "conversation_a": [user(" "), assistant("?")],
            "conversation_b": [user(" "), assistant("!")],
        },
    ]
    path = tmp_path / name
    _ = write(tmp_path, rows, name) if "jsonl" in name else pl.DataFrame(rows).write_parquet(path)
    found = import_responses([path])
    assert found.frame.select("prompt_id", "policy", "response").rows() == [
        ("q1", "x", "Hello"),
        ("q1", "y", "Hey"),
    ]
    assert found.frame["prompt"].to_list() == [[system, user("Hi")]] * 2
    assert {reason: len(rows) for reason, rows in found.dropped.items()} == {"empty user turn": 2}


def test_battles_of_140k_have_parts_and_images_are_left_out(tmp_path: Path) -> None:
    def said(role: str, *parts: tuple[str, str | None]) -> dict[str, Any]:
        content = [{"type": kind, "text": text, "image": None} for kind, text in parts]
        return {"role": role, "content": content}

    rows = [
        {
            "id": f"b{n}",
            "evaluation_session_id": "s",
            "model_a": "x",
            "model_b": "y",
            "winner": "both_bad",
            "conversation_a": [asked, said("assistant", ("text", "A"), ("text", "B"))],
            "conversation_b": [asked, said("assistant", ("text", "C"))],
        }
        for n, asked in enumerate(
            [said("user", ("text", "Hi")), said("user", ("text", "This?"), ("image", None))]
        )
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "140k.parquet")
    found = import_responses([tmp_path / "140k.parquet"])
    assert found.frame.select("prompt_id", "response").rows() == [("b0", "AB"), ("b0", "C")]
    assert found.dropped == {"not only text": ("140k.parquet: row 2",) * 2}


def test_battles_without_ids_number_the_same_prompt_as_samples(tmp_path: Path) -> None:
    row = {"model_a": "x", "model_b": "y", "prompt": "Hi", "response_a": "A", "response_b": "B"}
    found = import_responses([write(tmp_path, [row, row])])
    assert found.frame.select("prompt_id", "policy", "sample").rows() == [
        (digest("Hi"), policy, sample) for sample in (0, 1) for policy in "xy"
    ]
    assert found.n_numbered == 2


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [{"key": 7, "question": "Hi", "answer": "Hello", "who": "m", "response": "wrong"}]
    columns = {"prompt": "question", "response": "answer", "policy": "who", "prompt_id": "key"}
    frame = import_responses([write(tmp_path, rows)], columns=columns).frame
    assert frame.select("prompt_id", "policy", "response").rows() == [("7", "m", "Hello")]
    one = import_responses([write(tmp_path, rows)], columns=columns, policy="other").frame
    assert one["policy"].to_list() == ["other"]
    with pytest.raises(ValueError, match="columns has 'who'; it takes prompt, response, policy"):
        import_responses([write(tmp_path, rows)], columns={"who": "who"})


def test_messages_that_end_with_an_assistant_hold_both(tmp_path: Path) -> None:
    rows = [
        {"model": "m", "messages": [user("a"), assistant("b"), user("c"), assistant("d")]},
        {"model": "m", "messages": [user("a")]},
    ]
    found = import_responses([write(tmp_path, rows)])
    assert found.frame["response"].to_list() == ["d"]
    assert found.frame["prompt"].to_list() == [[user("a"), assistant("b"), user("c")]]
    assert found.dropped == {"no response": ("r.jsonl: row 2",)}


def test_a_response_may_be_a_list_of_messages(tmp_path: Path) -> None:
    rows = [{"model": "m", "prompt": [user("a")], "response": [assistant("b")]}]
    assert import_responses([write(tmp_path, rows)]).frame["response"].to_list() == ["b"]


def test_ids_and_categories_come_from_the_prompts_that_were_asked(tmp_path: Path) -> None:
    asked = write(tmp_path, [{"prompt_id": "p1", "prompt": "one", "category": "Others"}], "p.jsonl")
    folder = write_alpaca(tmp_path / "results", {"a": [("two", "2"), ("one", "1")]})
    found = import_responses([folder], prompts=read_prompts([asked]))
    assert found.frame.select("prompt_id", "response", "category").rows() == [("p1", "1", "Others")]
    assert found.dropped == {"not among the prompts": ("a/model_outputs.json: row 1",)}


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\nAdd.\n</think>\n\nIt is 4.\n", "Add.", "It is 4.\n"),
        ("\n <think></think>4", "", "4"),
        ("Add.\n</think>\n\n4", "Add.", "4"),
        ("<think>cut he", "cut he", ""),
        ("<think>a</think>Write </think> so.", "a", "Write </think> so."),
        ("Use `</think>` to end it.", None, "Use `</think>` to end it."),
        ("First <think>\n</think>\nso", None, "First <think>\n</think>\nso"),
        ("  plain  ", None, "  plain  "),
    ],
)
def test_reasoning_is_kept_apart(text: str, reasoning: str | None, answer: str) -> None:
    assert split_reasoning(text) == (reasoning, answer)


@given(TEXT.filter(lambda text: "think>" not in text), TEXT.filter(lambda t: "think>" not in t))
def test_an_answer_is_never_mixed_with_its_reasoning(reasoning: str, answer: str) -> None:
    assert split_reasoning(answer) == (None, answer)
    wrapped = f"<think>{reasoning}</think>{answer}"
    assert split_reasoning(wrapped) == (reasoning.strip(), answer.lstrip())


def test_reasoning_goes_to_its_own_column_on_import(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "model": "m", "response": "<think>x</think>1", "reasoning": None},
        {"prompt": "b", "model": "m", "response": "2", "reasoning": "served apart"},
        {"prompt": "c", "model": "m", "response": "3", "reasoning": None},
    ]
    frame = import_responses([write(tmp_path, rows)]).frame
    assert frame.select("response", "reasoning").rows() == [
        ("1", "x"),
        ("2", "served apart"),
        ("3", None),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "response": "b"}], r"no column of policies .*; give --policy NAME or"),
        ([{"prompt": "a", "response": "b", "model": ""}], r"row 1: model is empty; fill it"),
        ([{"question": 3, "model": "m"}], r"no column of responses .* --response-column"),
        ([{"response": "b", "model": "m"}], r"no column of prompts .* --prompt-column"),
        ([{"prompt": "a", "response": 3, "model": "m"}], r"column 'response' holds Int64"),
        ([{"prompt": "a", "response": None, "model": "m"}], r"none of 1 rows is left \(no resp"),
        ([{"prompt": "a", "response": "b", "model": "m", "prompt_id": None}], r"prompt_id is null"),
        (
            [{"prompt": p, "response": "b", "model": "m", "prompt_id": "1"} for p in "ab"],
            r"row 2: id '1' stands for another prompt than in r\.jsonl: row 1",
        ),
        (
            [{"prompt": "a", "response": "b", "model": "m", "sample": 0}] * 2,
            r"row 2: prompt '\w+', policy 'm', sample 0 stands in an earlier row too",
        ),
        (
            [{"prompt": "a", "response": "b", "model": "m", "sample": "x"}],
            r"column 'sample' holds String, of which some is no Int64",
        ),
        (
            [{"model_a": "x", "model_b": "y", "conversation_a": ["u"], "conversation_b": ["u"]}],
            r"row 1: not a conversation",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        import_responses([write(tmp_path, rows)])
    assert "\n" not in str(caught.value)


@given(st.permutations(range(5)))
def test_an_order_is_reported_if_and_only_if_it_differs(order: list[int]) -> None:
    ids = [str(n) for n in [*range(5), *range(5), *order]]
    frame = pl.DataFrame({"prompt_id": ids, "policy": list("aaaaabbbbbccccc")})
    assert reordered_policies(frame) == (() if order == sorted(order) else ("c",))


def test_alpaca_eval_files_give_what_their_table_holds(shared: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(shared / "data/alpaca_eval/outputs.parquet")
    few = table.filter(pl.col("model").is_in(["gemma-2b-it", "gpt-4o-mini-2024-07-18"]))
    outputs = {
        policy: list(rows.select("instruction", "output").iter_rows())
        for (policy,), rows in few.group_by(["model"])
    }
    outputs["gemma-2b-it"].reverse()
    found = import_responses([write_alpaca(tmp_path / "results", outputs)])
    assert (len(found.frame), found.dropped, found.n_numbered) == (1610, {}, 0)
    assert len(found.reordered) == 1
    expected = few.select(
        prompt_id=pl.Series([digest(text) for text in few["instruction"]]),
        policy="model",
        response="output",
    )
    key = ["policy", "prompt_id"]
    assert found.frame.select(expected.columns).sort(key).equals(expected.sort(key))
