"""Battles from the layouts that people have, real and by hand, and files that can't be used."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from charm_rm.data.battle_style import count_style, style_columns
from charm_rm.data.battles import read_battles
from charm_rm.data.tables import DataError


def counts(tokens: int, headers: int, lists: int, bold: int, *, side: str) -> dict[str, Any]:
    """Half of a ``conv_metadata`` as the 100k and 140k releases have it."""
    return {
        f"sum_assistant_{side}_tokens": tokens,
        f"header_count_{side}": {"h1": 0, "h2": headers},
        f"list_count_{side}": {"ordered": 1, "unordered": lists - 1},
        f"bold_count_{side}": {"**": bold, "__": 0},
    }


METADATA = counts(700, 3, 5, 2, side="a") | counts(90, 0, 1, 0, side="b")


def test_the_55k_layout_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
        '1,gpt-4,vicuna,"[""Hi""]","[""a""]","[""b""]",1,0,0\n'
        '2,vicuna,gpt-4,"[""Hi""]","[""a""]","[""b""]",0,1,0\n'
        '3,vicuna,gpt-4,"[""Hi""]","[""a""]","[""b""]",0,0,1\n'
    )
    found = read_battles([tmp_path / "train.csv"])
    assert found.select("model_a", "outcome").rows() == [
        ("gpt-4", 1.0),
        ("vicuna", 0.0),
        ("vicuna", 0.5),
    ]
    assert found["date"].null_count() == 3


def test_the_100k_layout_is_read(tmp_path: Path) -> None:
    winners = ["model_a", "model_b", "tie", "tie (bothbad)"]
    rows = [
        {"model_a": "x", "model_b": "y", "winner": w, "tstamp": 1.72e9, "conv_metadata": METADATA}
        for w in winners
    ]
    (tmp_path / "battles.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = read_battles([tmp_path / "battles.jsonl"], style=True)
    assert found["outcome"].to_list() == [1.0, 0.0, 0.5, 0.5]
    assert str(found["date"][0]) == "2024-07-03"
    assert found.select(style_columns()).row(0) == (700, 90, 3, 0, 5, 1, 2, 0)


@pytest.mark.parametrize("as_time", [True, False])
def test_the_140k_layout_is_read(tmp_path: Path, as_time: bool) -> None:
    time = pl.Series(["2025-05-29T14:48:41.602925"] * 2)
    frame = pl.DataFrame(
        {
            "model_a": ["x", "x"],
            "model_b": ["y", "y"],
            "winner": ["both_bad", "model_b"],
            "timestamp": time.str.to_datetime() if as_time else time,
            "conv_metadata": [METADATA] * 2,
        }
    )
    frame.write_parquet(tmp_path / "battles.parquet")
    found = read_battles([tmp_path / "battles.parquet"], style=True)
    assert found["outcome"].to_list() == [0.5, 0.0]
    assert str(found["date"][1]) == "2025-05-29"
    assert found["headers_a"].to_list() == [3, 3]


def test_the_real_votes_are_read_one_kind_at_a_time(shared: Path) -> None:
    votes = shared / "data/arena/mt_bench_votes.parquet"
    human = read_battles([votes], vote_type="human")
    assert len(human) == 3355
    assert len(read_battles([votes], vote_type="gpt4_pair")) == 2400
    crowd = read_battles([shared / "data/arena/llmfao_battles.parquet"], vote_type="crowd")
    assert len(crowd) == 8931
    assert len(set(crowd["model_a"]) | set(crowd["model_b"])) == 59
    assert set(human["outcome"]) == {0.0, 0.5, 1.0}


def test_kinds_of_votes_are_not_mixed_silently(shared: Path) -> None:
    votes = shared / "data/arena/mt_bench_votes.parquet"
    with pytest.raises(DataError, match=r"votes of 2 kinds \(gpt4_pair, human\).*--vote-type"):
        read_battles([votes])
    with pytest.raises(DataError, match="no votes of type 'crowd'; there are: gpt4_pair, human"):
        read_battles([votes], vote_type="crowd")


def test_several_files_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("model_a,model_b,winner\nx,y,model_a\n")
    (tmp_path / "b.csv").write_text("winner,model_b,model_a\nmodel_a,x,y\n")
    found = read_battles([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert found["model_a"].to_list() == ["x", "y"]


HEAD = "model_a,model_b,winner\nx,y,tie\n"
ONE_HOT = "model_a,model_b,winner_model_a,winner_model_b,winner_tie\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "x,y,draw\n",
            r"battles.csv:3: winner is 'draw'; it must be one of model_a, model_b",
        ),
        (HEAD + "x,y,\n", "battles.csv:3: winner is None"),
        (HEAD + "x,y,Model_A\n", "winner is 'Model_A'"),
        (HEAD + "x,,tie\n", "battles.csv:3: that battle has no model_b"),
        (HEAD + "x,x,tie\n", "battles.csv:3: that battle is of a model against itself"),
        (ONE_HOT + "x,y,1,0,0\nx,y,1,1,0\n", "battles.csv:3: that battle does not have one winner"),
        (ONE_HOT + "x,y,0,0,0\n", "does not have one winner"),
        (ONE_HOT + "x,y,2,0,-1\n", "does not have one winner"),
        (ONE_HOT + "x,y,1,0,\n", "does not have one winner"),
        ("model_a,winner\nx,tie\n", "no column 'model_b'"),
        ("model_a,model_b,result\nx,y,tie\n", "no column 'winner'"),
        ("model_a,model_b,winner\n", "no rows"),
    ],
)
def test_battles_that_cannot_be_trusted_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "battles.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_battles([tmp_path / "battles.csv"])


def test_no_files_are_refused() -> None:
    with pytest.raises(DataError, match="no battles given"):
        read_battles([])


def style_of(response: Any) -> tuple[Any, ...]:
    frame = pl.DataFrame({"response_a": [response], "response_b": [response]})
    row = count_style(frame, where="b").row(0)
    assert row[::2] == row[1::2]  # both sides are counted alike
    return row[::2]


@pytest.mark.parametrize(
    ("response", "style"),
    [
        ("plain", (5, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
        ("# One\n## Two\n#three", (19, 2, 0, 0)),
        ("- a\n  * b\n+ c\n1. d\n2) e", (23, 0, 4, 0)),
        ("**a** and __b__ and ** c", (24, 0, 0, 2)),
        ("```\n# no\n- no\n**no**\n```\n# yes", (30, 1, 0, 0)),
        ("# yes\n```\n# cut off", (19, 1, 0, 0)),
        (json.dumps(["- one", None, "- two"]), (11, 0, 2, 0)),
        (json.dumps(["a \ud83d b"]), (5, 0, 0, 0)),  # half a character, as the 55k release has
        ("[not JSON", (9, 0, 0, 0)),
        ("[1, 2]", (6, 0, 0, 0)),
        (["# a", "# b"], (7, 2, 0, 0)),
    ],
)
def test_style_is_counted_in_texts_and_in_turns(response: Any, style: tuple[int, ...]) -> None:
    assert style_of(response) == style


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in METADATA.items() if name != field}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"winner": ["tie"]}, "b: no style to count: neither records in 'conv_metadata' nor"),
        ({"conv_metadata": ["{'turns': 1}"]}, "no style to count"),
        ({"conv_metadata": [without("bold_count_b")]}, "has no 'bold_count_b', which style"),
        (
            {"conv_metadata": [METADATA, METADATA | {"sum_assistant_a_tokens": None}]},
            "b: row 2: length_a not known",
        ),
        ({"conv_metadata": [METADATA, METADATA | {"list_count_b": None}]}, "lists_b not known"),
        (
            {"response_a": ["x", None], "response_b": ["x", "y"]},
            "row 2: length_a, headers_a, lists_a, bold_a not known",
        ),
    ],
)
def test_style_that_is_not_there_is_refused(columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        count_style(pl.DataFrame(columns), where="b")
