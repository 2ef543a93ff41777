"""Reading tables in every format, and writing them whole or not at all."""

import errno
import json
import os
from pathlib import Path

import polars as pl
import pytest

from charm_rm.data import tables
from charm_rm.data.tables import (
    DataError,
    nearest_names,
    read_table,
    refuse_existing,
    replacing,
    require_columns,
    write_json,
    write_table,
    write_text,
)

FRAME = pl.DataFrame({"name": ["ä", "b"], "value": [1.5, -2.0]})


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, name: str) -> None:
    write_table(FRAME, tmp_path / name)
    assert read_table(tmp_path / name).equals(FRAME)


def test_a_json_list_of_objects_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(FRAME.to_dicts()), encoding="utf-8")
    assert read_table(tmp_path / "t.json").equals(FRAME)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", '{"a": 1}', "list of objects"),
        ("t.json", "[1, 2]", "list of objects"),
        ("t.json", '[{"a": ', "not a readable table"),
        ("t.json", "[" * 100_000, "not a readable table"),
        ("t.parquet", "PAR1 or not", "not a readable table"),
        ("t.csv", "", "not a readable table"),
        ("t.jsonl", '{"a": 1}\n{"a": ', "not a readable table"),
        ("t.xlsx", "", "unknown kind of table; give one of .parquet"),
    ],
)
def test_a_file_that_is_no_table_is_one_line_of_explanation(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match="not a readable table"):
        read_table(tmp_path / "t.json")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str) -> None:
    text = {"t.csv": "a,b\n1,x\n", "t.jsonl": '{"a": 1, "b": "x"}\n', "t.json": '[{"a":1,"b":"x"}]'}
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text[name].encode())
    assert tables.read_table(tmp_path / name).to_dicts() == [{"a": 1, "b": "x"}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        read_table(tmp_path / "none.parquet")


def test_a_directory_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a Hugging Face data set"):
        read_table(tmp_path)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="not a readable data set"):
        read_table(tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_bracket_in_a_name_is_no_pattern(tmp_path: Path, suffix: str) -> None:
    write_table(FRAME, tmp_path / f"t[1]{suffix}")
    write_table(FRAME.head(1), tmp_path / f"t1{suffix}")
    assert read_table(tmp_path / f"t[1]{suffix}").equals(FRAME)


def test_an_output_that_is_an_input_is_refused_even_with_force(tmp_path: Path) -> None:
    write_table(FRAME, tmp_path / "t.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "t.csv")
    with pytest.raises(DataError, match="is an input of this run"):
        refuse_existing(tmp_path / "link.csv", force=True, inputs=[tmp_path / "t.csv"])


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="is a device or the like"):
        write_table(FRAME, tmp_path / "pipe.csv", force=True)


def test_what_a_link_points_to_is_replaced_and_the_link_kept(tmp_path: Path) -> None:
    write_table(FRAME, tmp_path / "t.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "t.csv")
    write_table(FRAME.head(1), tmp_path / "link.csv", force=True)
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read_table(tmp_path / "t.csv")) == 1


def test_a_missing_column_is_named_beside_those_there() -> None:
    with pytest.raises(DataError, match=r"x.csv: no column 'score'; it has name, value"):
        require_columns(FRAME, ["name", "score"], where="x.csv")


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")
    with pytest.raises(DataError, match="exists already; give --force"):
        write_table(FRAME, path)
    assert path.read_text() == "old"
    write_table(FRAME, path, force=True)
    assert read_table(path).equals(FRAME)


def test_an_output_in_a_missing_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder does not exist"):
        refuse_existing(tmp_path / "none" / "t.csv", force=False)


def test_an_unknown_output_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown kind of table"):
        write_table(FRAME, tmp_path / "t.xlsx")


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "offsets.json"
    path.write_text("old")

    def disk_full(part: Path) -> None:
        part.write_text("half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"not written .*No space left"):
        replacing(path, disk_full, force=True)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["offsets.json"]


def test_an_interrupt_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "offsets.json"
    path.write_text("old")

    def interrupted(part: Path) -> None:
        part.write_text("half of")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replacing(path, interrupted, force=True)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["offsets.json"]


def test_written_files_have_the_usual_rights(tmp_path: Path) -> None:
    write_text("x", tmp_path / "a.txt")
    plain = tmp_path / "b.txt"
    plain.write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode


def test_nan_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json({"offset": float("nan")}, tmp_path / "o.json")
    assert not (tmp_path / "o.json").exists()


def test_nearest_names_ignore_upper_and_lower_case() -> None:
    assert nearest_names("GPT-4O-MINI", ["gpt-4o-mini-2024", "claude-2"]) == ["gpt-4o-mini-2024"]


def test_a_part_of_a_name_is_near_to_it() -> None:
    names = ["gemma-2-9b-it", "gemma-2-9b-it-SimPO", "gpt-4o"]
    assert nearest_names("simpo", names) == ["gemma-2-9b-it-SimPO"]
    assert nearest_names("gemma", names) == ["gemma-2-9b-it", "gemma-2-9b-it-SimPO"]


def test_a_name_like_no_other_lists_what_there_is() -> None:
    error = tables.not_found("policy", "zzz", names=["vicuna-7b"], where="s.csv")
    assert str(error) == "s.csv: no policy 'zzz'; there are: vicuna-7b"
