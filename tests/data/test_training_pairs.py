"""Preference pairs as a trainer takes them: read, refused, held out by prompt, turned round."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.prompts import prompt_digest
from charm_rm.data.tables import DataError
from charm_rm.data.training_pairs import hold_out, read_training_pairs, undo_calibration

PROMPT = [{"role": "user", "content": "Hi"}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("Hello!", "What?"))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"chosen": PROMPT + GOOD, "rejected": PROMPT + BAD},
    ],
    ids=["explicit prompt", "texts", "implicit prompt"],
)
def test_each_layout_reads_as_the_same_pair(row: dict[str, Any], tmp_path: Path) -> None:
    pairs = read_training_pairs(write(tmp_path / "pairs.jsonl", row))
    assert (pairs.chosen, pairs.rejected) == ([PROMPT + GOOD], [PROMPT + BAD])
    assert pairs.prompts == [prompt_digest(PROMPT)]
    assert (pairs.margin, pairs.flipped) == (None, None)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "equal": (
        {"prompt": "Hi", "chosen": "Yes", "rejected": "Yes"},
        "row 2: chosen equals rejected, which teaches nothing \\(1 of 2 pairs\\)",
    ),
    "other prompt": (
        {"chosen": PROMPT + GOOD, "rejected": [{"role": "user", "content": "Ho"}, *BAD]},
        "row 2: chosen and rejected answer different prompts",
    ),
    "no answer": (
        {"prompt": "Hi", "chosen": None, "rejected": "No"},
        "row 2: prompt is None; give a string or a list of messages",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pair_that_can_teach_nothing_is_refused_by_its_row(fault: str, tmp_path: Path) -> None:
    row, message = FAULTS[fault]
    sound: dict[str, Any] = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}
    if "prompt" not in row:
        sound = {"chosen": PROMPT + GOOD, "rejected": PROMPT + BAD}
    path = write(tmp_path / "pairs.jsonl", sound, row)
    with pytest.raises(DataError, match=message):
        read_training_pairs(path)


def test_files_without_pairs_texts_or_margins_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pair = {"prompt": ["Hi"], "chosen": ["Yes"], "rejected": ["No"]}
    pl.DataFrame(pair).clear().write_parquet(path)
    with pytest.raises(DataError, match="no pairs; give a file"):
        read_training_pairs(path)
    pl.DataFrame({"chosen_policy": ["a"], "rejected_policy": ["b"]}).write_parquet(path)
    with pytest.raises(DataError, match="pairs without texts; make them again with charm pairs"):
        read_training_pairs(path)
    pl.DataFrame({"prompt": ["Hi"], "chosen": ["Yes"]}).write_parquet(path)
    with pytest.raises(DataError, match="no column 'rejected'"):
        read_training_pairs(path)
    pl.DataFrame(pair | {"margin": [float("nan")]}).write_parquet(path)
    with pytest.raises(DataError, match="row 1: margin is nan"):
        read_training_pairs(path)
    pl.DataFrame(pair | {"flipped": ["yes"]}).write_parquet(path)
    with pytest.raises(DataError, match="column 'flipped' holds String"):
        read_training_pairs(path)


@given(
    prompts=st.lists(st.integers(0, 12).map(str), min_size=2, max_size=60),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 5),
)
def test_no_prompt_stands_on_both_sides(prompts: list[str], fraction: float, seed: int) -> None:
    n_prompts = len(set(prompts))
    if n_prompts < 2:
        return
    held = hold_out(prompts, fraction=fraction, seed=seed)
    sides = [
        {prompt for prompt, out in zip(prompts, held, strict=True) if out == side}
        for side in (True, False)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0]) == max(1, round(fraction * n_prompts))
    backwards = hold_out(prompts[::-1], fraction=fraction, seed=seed)
    assert backwards[::-1].tolist() == held.tolist()  # the order of the rows is of no account


def test_nothing_is_held_out_unless_asked_and_never_everything() -> None:
    assert not hold_out(["a", "b"], fraction=0.0, seed=0).any()
    with pytest.raises(ValueError, match=r"1 prompts are too few to hold out 0\.5 of them"):
        hold_out(["a", "a"], fraction=0.5, seed=0)
    draws = {tuple(hold_out(list("abcdefgh"), fraction=0.5, seed=seed)) for seed in range(4)}
    assert len(draws) > 1


def test_turning_round_needs_flipped_pairs(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}
    path = write(tmp_path / "pairs.jsonl", row)
    with pytest.raises(DataError, match="no column 'flipped'"):
        undo_calibration(read_training_pairs(path))
    write(path, row | {"flipped": False})
    with pytest.raises(DataError, match="the calibration flipped no pair"):
        undo_calibration(read_training_pairs(path))
    write(path, row | {"flipped": True, "margin": 1.0}, row | {"flipped": False, "margin": 2.0})
    pairs = read_training_pairs(path)
    raw = undo_calibration(pairs)
    assert raw.chosen == [pairs.rejected[0], pairs.chosen[1]]
    assert raw.margin is None
    assert np.array_equal(raw.prompts, pairs.prompts)
