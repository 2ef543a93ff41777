"""Texts of preference pairs in every layout that trainers read, and rows that have none."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from charm_rm.data.preference_texts import read_preference_texts
from charm_rm.data.preferences import write_preferences
from charm_rm.data.prompts import as_messages, prompt_digest
from charm_rm.data.tables import DataError

ASKED = as_messages("Hi")
DIGEST = prompt_digest(ASKED)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def read(folder: Path, *rows: dict[str, Any]) -> pl.DataFrame:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return read_preference_texts([path])


HANDBOOK = {
    "prompt": "Hi",
    "prompt_id": "7",
    "chosen": [*ASKED, *said("Hello")],
    "rejected": [*ASKED, *said("No")],
    "messages": [*ASKED, *said("Hello")],
    "score_chosen": 8.5,
    "score_rejected": 4.0,
}


@pytest.mark.parametrize(
    ("row", "prompt_id"),
    [
        ({"prompt": ASKED, "chosen": said("Hello"), "rejected": said("No")}, DIGEST),
        ({"chosen": [*ASKED, *said("Hello")], "rejected": [*ASKED, *said("No")]}, DIGEST),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, DIGEST),
        ({"prompt": "Hi", "chosen": "HiHello", "rejected": "HiNo", "margin": 2.0}, DIGEST),
        (HANDBOOK, "7"),
        ({"instruction": "Hi", "chosen": "Hello", "rejected": "No"}, DIGEST),
    ],
    ids=["TRL explicit", "TRL implicit", "plain", "OpenRLHF", "alignment-handbook", "instruction"],
)
def test_one_pair_reads_the_same_in_every_layout(
    tmp_path: Path, row: dict[str, Any], prompt_id: str
) -> None:
    assert read(tmp_path, row).row(0) == (prompt_id, "Hello", "No", None)


def test_pairs_that_this_package_writes_are_read_with_their_flips(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "prompt_id": ["p", "q"],
            "prompt": [ASKED] * 2,
            "chosen": [said("a"), said("b")],
            "rejected": [said("c"), said("d")],
            "flipped": [True, False],
        }
    )
    for name in ("pairs.parquet", "pairs.jsonl", "pairs"):
        write_preferences(frame, tmp_path / name)
        found = read_preference_texts([tmp_path / name])
        assert found.rows() == [("p", "a", "c", True), ("q", "b", "d", False)]


def test_the_response_is_what_follows_the_turns_that_both_sides_share(tmp_path: Path) -> None:
    start = [*ASKED, *said("Hello!"), *as_messages("Why?")]
    found = read(
        tmp_path,
        {"chosen": [*start, *said("So")], "rejected": [*start, *said("No")]},
        # They part earlier: all that the assistant says from there on.
        {
            "chosen": [*ASKED, *said("A"), *as_messages("x"), *said("B")],
            "rejected": [*ASKED, *said("C")],
        },
        {"chosen": said("same"), "rejected": said("same")},
    )
    assert found.select("chosen", "rejected").rows() == [("So", "No"), ("A\nB", "C"), ("same",) * 2]
    assert found["prompt_id"][0] == prompt_digest(start)
    assert found["prompt_id"][2].endswith("pairs.jsonl: row 3")  # a prompt of its own


def test_texts_that_csv_readers_take_for_numbers_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\nTwo?,2,3\nPi?,3.140,3\n")
    assert read_preference_texts([path])["chosen"].to_list() == ["2", "3.140"]


def test_real_pairs_are_read_whole(shared: Path) -> None:
    folder = shared / "data" / "preferences"
    found = read_preference_texts([folder / "hh_harmless_test.parquet"])
    raw = pl.read_parquet(folder / "hh_harmless_test.parquet")
    last = [turns[-1]["content"] for turns in raw["chosen"].to_list()]
    same = sum(ours == theirs for ours, theirs in zip(found["chosen"], last, strict=True))
    assert (len(found), same) == (2312, 2308)  # others part before the last turn
    assert len(read_preference_texts([folder / "evalbiasbench.parquet"])) == 80


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a", "reject": "b"}, "no column 'rejected'; it has chosen, reject"),
        ({"chosen_policy": "a", "rejected_policy": "b"}, "make the pairs with charm pairs --resp"),
        ({"chosen": "a", "rejected": said("b")}, r"chosen holds String, rejected List\(.*give"),
        ({"chosen": ["a"], "rejected": ["b"]}, "chosen holds List.String"),
        ({"chosen": 1, "rejected": 2}, "chosen holds Int64"),
        ({"chosen": ASKED, "rejected": said("b")}, "row 1: the assistant says nothing in chosen"),
        (
            {"chosen": "a", "rejected": "b", "flipped": "yes"},
            "column 'flipped' holds String; give true, false",
        ),
    ],
)
def test_rows_without_texts_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": None, "rejected": "b"}, "row 2: chosen is null; fill it or drop the row"),
        ({"chosen": "a", "rejected": "b", "prompt_id": None}, "row 2: prompt_id is null"),
    ],
)
def test_nulls_are_refused_with_their_row(tmp_path: Path, row: Any, message: str) -> None:
    good = {"chosen": "a", "rejected": "b", "prompt_id": "p"}
    with pytest.raises(DataError, match=message):
        read(tmp_path, good, row)
    turns = {"chosen": said("a"), "rejected": said("b")}
    with pytest.raises(DataError, match="row 2: rejected is null"):
        read(tmp_path, turns, turns | {"rejected": None})
    with pytest.raises(DataError, match="row 2: chosen is empty; fill it or drop the row"):
        read(tmp_path, turns, turns | {"chosen": []})


def test_no_files_and_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preference pairs given"):
        read_preference_texts([])
    pl.DataFrame(schema={"chosen": pl.String, "rejected": pl.String}).write_csv(
        tmp_path / "pairs.csv"
    )
    with pytest.raises(DataError, match="no rows; give a file with preference pairs"):
        read_preference_texts([tmp_path / "pairs.csv"])
