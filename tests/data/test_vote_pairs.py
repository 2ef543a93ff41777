"""Pairs from votes: the layouts of battles, what makes no pair, and prompts of benchmarks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.contamination import EQUAL, SHARES_WORDS, find_contaminated
from charm_rm.data.tables import DataError
from charm_rm.data.vote_pairs import VotePairs, read_vote_pairs

Read = Callable[..., VotePairs]
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def talk(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def battle(a: list[Any], b: list[Any], winner: str, **more: Any) -> dict[str, Any]:
    sides = {"conversation_a": a, "conversation_b": b}
    return {"model_a": "x", "model_b": "y", "winner": winner, **sides, **more}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes rows as a JSON-lines file and reads them as votes."""

    def run(*rows: dict[str, Any], **options: Any) -> VotePairs:
        path = tmp_path / "votes.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_vote_pairs([str(path)], **options)

    return run


def sides(found: VotePairs) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            row["prompt"][-1]["content"],
            row["chosen"][-1]["content"],
            row["rejected"][-1]["content"],
            row["chosen_policy"],
            row["rejected_policy"],
        )
        for row in found.frame.to_dicts()
    ]


def test_the_winner_is_chosen_whichever_side_it_stands_on(read: Read) -> None:
    found = read(
        battle(talk("Hi", "yes"), talk("Hi", "no"), "model_a"),
        battle(talk("Ho", "yes"), talk("Ho", "no"), "model_b"),
    )
    assert sides(found) == [("Hi", "yes", "no", "x", "y"), ("Ho", "no", "yes", "y", "x")]
    assert (found.n_votes, found.dropped) == (2, {})


def test_the_three_published_layouts_give_the_same_pair(tmp_path: Path) -> None:
    names = {"model_a": ["x"], "model_b": ["y"]}
    layouts: dict[str, dict[str, Any]] = {
        "55k": names
        | {"prompt": ['["Hi"]'], "response_a": ['["yes"]'], "response_b": ['["no"]']}
        | {"winner_model_a": [0], "winner_model_b": [1], "winner_tie": [0]},
        "100k": names
        | {"conversation_a": [talk("Hi", "yes")], "conversation_b": [talk("Hi", "no")]}
        | {"winner": ["model_b"]},
        "140k": names
        | {
            f"conversation_{side}": [
                [
                    {"role": one["role"], "content": [{"type": "text", "text": one["content"]}]}
                    for one in talk("Hi", answer)
                ]
            ]
            for side, answer in (("a", "yes"), ("b", "no"))
        }
        | {"winner": ["model_b"]},
    }
    frames = []
    for name, columns in layouts.items():
        path = tmp_path / f"{name}.parquet"
        pl.DataFrame(columns).write_parquet(path)
        frames.append(read_vote_pairs([str(path)]).frame.drop("source"))
    assert frames[0].equals(frames[1])
    assert frames[1].equals(frames[2])
    assert frames[0]["chosen_policy"].to_list() == ["y"]


def test_ties_are_dropped_or_stand_once_each_way(read: Read) -> None:
    rows = [
        battle(talk("Hi", "yes"), talk("Hi", "no"), "model_a"),
        battle(talk("Ho", "yes"), talk("Ho", "no"), "tie (bothbad)"),
    ]
    assert read(*rows).dropped == {"tie": 1}
    both = read(*rows, ties="both")
    assert both.frame["tie"].to_list() == [False, True, True]
    assert sides(both)[1:] == [("Ho", "yes", "no", "x", "y"), ("Ho", "no", "yes", "y", "x")]


def test_what_makes_no_pair_is_counted_by_its_reason(read: Read) -> None:
    found = read(
        battle(talk("Hi", "yes"), talk("Hi", "no"), "model_a", language="English"),
        battle(talk("Hi", "yes"), talk("Hi", "no"), "model_a", language="English"),
        battle(talk("Hi", "yes"), talk("Hi", "yes"), "model_a", language="English"),
        battle(talk("Hi", "yes"), talk("Hi", " "), "model_a", language="English"),
        battle(talk("Hi", "yes"), talk("Ho", "no"), "model_a", language="English"),
        battle(talk("Hi", "oui"), talk("Hi", "non"), "model_a", language="French"),
        battle(
            talk("Hi", "a", "And?", "yes"),
            talk("Hi", "b", "So?", "no"),
            "model_a",
            language="English",
        ),
        languages=["English"],
    )
    assert found.n_votes == 7
    assert len(found.frame) == 1
    assert found.dropped == {
        "repeated": 1,
        "equal answers": 1,
        "does not end with an answer on both sides": 1,
        "the two sides answer different prompts": 1,
        "another language": 1,
        "the sides part before the last turn": 1,
    }


def test_a_picture_is_no_text(read: Read) -> None:
    def seen(answer: str) -> list[dict[str, Any]]:
        parts = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
        said = [{"type": "text", "text": answer}]
        return [{"role": "user", "content": parts}, {"role": "assistant", "content": said}]

    def told(answer: str) -> list[dict[str, Any]]:
        return [
            {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
            for turn in talk("Hi", answer)
        ]

    found = read(
        battle(seen("a cat"), seen("a dog"), "model_a"), battle(told("yes"), told("no"), "model_a")
    )
    assert (len(found.frame), found.dropped) == (1, {"a turn is not text": 1})


def test_conversations_that_part_early_have_their_common_beginning_as_prompt(read: Read) -> None:
    row = battle(
        talk("Hi", "same", "More", "a", "And?", "yes"), talk("Hi", "same", "More", "no"), "model_a"
    )
    pair = read(row, several_turns=True).frame.row(0, named=True)
    assert pair["prompt"] == talk("Hi", "same", "More")
    assert [turn["content"] for turn in pair["chosen"]] == ["a", "And?", "yes"]
    assert [turn["content"] for turn in pair["rejected"]] == ["no"]


def test_rows_of_chosen_and_rejected_are_votes_too(read: Read) -> None:
    whole = read({"chosen": talk("Hi", "yes"), "rejected": talk("Hi", "no")})
    parts = read({"prompt": "Hi", "chosen": "yes", "rejected": "no"})
    columns = ["prompt_id", "prompt", "chosen", "rejected"]
    assert whole.frame.select(columns).equals(parts.frame.select(columns))


def test_prompts_of_a_benchmark_are_left_out(read: Read) -> None:
    rows = [
        battle(talk(text, "yes"), talk(text, "no"), "model_a")
        for text in ("Say hi!", f"Please: {LONG}.", "Something else")
    ]
    found = read(*rows, benchmark=["say HI", f"{LONG} and more"])
    assert [row[0] for row in sides(found)] == ["Something else"]
    assert found.dropped == {EQUAL: 1, SHARES_WORDS: 1}
    with pytest.raises(DataError, match="no pair is left of 3 votes"):
        read(*rows, benchmark=["say hi", LONG, "something  else"])


@given(st.lists(st.sampled_from("abc"), max_size=20), st.lists(st.sampled_from("abc"), max_size=20))
def test_shared_words_are_those_that_a_plain_search_finds(one: list[str], two: list[str]) -> None:
    n = 13
    runs = [two[at : at + n] for at in range(len(two) - n + 1)]
    shares = any(one[at : at + n] in runs for at in range(len(one) - n + 1))
    expected = EQUAL if one == two else SHARES_WORDS if shares else None
    assert find_contaminated([" ".join(one)], [" ".join(two)]) == [expected]


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"prompt": "Hi", "response": "yes"}, {}, "neither battles with texts"),
        (battle(talk("Hi", "a"), talk("Hi", "b"), "me"), {}, "winner is 'me'"),
        (battle(talk("Hi", "a"), talk("Hi", "b"), "model_a"), {"languages": ["x"]}, "language"),
        ({"chosen": "yes", "rejected": "no"}, {}, "row 1: chosen is a text"),
        ({"chosen": [{"role": "bot", "content": "x"}], "rejected": "no"}, {}, "row 1: "),
        (battle([{"say": "Hi"}], talk("Hi", "b"), "model_a"), {}, "row 1: not a conversation"),
    ],
)
def test_files_that_are_no_votes_are_refused_in_one_line(
    read: Read, row: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said) as error:
        read(row, **options)
    assert "\n" not in str(error.value)


def test_real_votes_with_text_become_pairs(shared: Path) -> None:
    folder = shared / "data" / "preferences"
    found = read_vote_pairs([str(folder / "hh_harmless_test.parquet")])
    assert (found.n_votes, len(found.frame)) == (2312, 2303)
    assert found.dropped["does not end with an answer on both sides"] == 4
    assert found.dropped["the sides part before the last turn"] == 5
