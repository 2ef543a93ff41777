"""Part files: kept, resumed, mistrusted, locked."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import polars as pl
import pytest

from charm_rm.data.parts import Setting, open_parts, remove_parts
from charm_rm.data.tables import DataError

SETTINGS: dict[str, Setting] = {"reward_model": "rm", "dtype": "float32", "max_length": 128}


def rows(*scores: float) -> pl.DataFrame:
    return pl.DataFrame({"score": scores})


def stored_scores(folder: Path) -> list[float]:
    with open_parts(folder, settings=SETTINGS) as parts:
        frame = parts.read()
    return [] if frame is None else frame["score"].to_list()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds three parts with the scores 0, 1 and 2."""
    with open_parts(tmp_path / "scores.parts", settings=SETTINGS) as parts:
        for score in (0.0, 1.0, 2.0):
            parts.append(rows(score))
    return tmp_path / "scores.parts"


def test_a_new_folder_holds_nothing(tmp_path: Path) -> None:
    assert stored_scores(tmp_path / "new.parts") == []


def test_parts_are_read_in_the_order_in_which_they_were_written(folder: Path) -> None:
    with open_parts(folder, settings=SETTINGS) as parts:
        for score in range(3, 14):
            parts.append(rows(float(score)))
    assert stored_scores(folder) == [float(score) for score in range(14)]


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_torn_part_is_dropped_and_the_others_are_kept(folder: Path, length: int) -> None:
    torn = sorted(folder.glob("000001-*"))[0]
    torn.write_bytes(torn.read_bytes()[:length])
    with open_parts(folder, settings=SETTINGS) as parts:
        assert parts.n_dropped == 1
        assert not torn.exists()
    assert stored_scores(folder) == [0.0, 2.0]


def test_one_altered_byte_is_enough_to_distrust_a_part(folder: Path) -> None:
    altered = sorted(folder.glob("000002-*"))[0]
    content = bytearray(altered.read_bytes())
    content[len(content) // 3] ^= 1
    altered.write_bytes(content)
    assert stored_scores(folder) == [0.0, 1.0]


def test_a_file_that_a_kill_left_half_written_is_swept_away(folder: Path) -> None:
    leftover = folder / ".000003-0123456789ab.parquet.x7k2"
    leftover.write_bytes(b"PAR1")
    assert stored_scores(folder) == [0.0, 1.0, 2.0]
    assert not leftover.exists()


def test_a_part_that_follows_a_dropped_one_gets_a_free_number(folder: Path) -> None:
    sorted(folder.glob("000001-*"))[0].write_bytes(b"")
    with open_parts(folder, settings=SETTINGS) as parts:
        parts.append(rows(3.0))
    assert stored_scores(folder) == [0.0, 2.0, 3.0]


def test_other_settings_are_refused_with_what_differs(folder: Path) -> None:
    other = SETTINGS | {"dtype": "bfloat16", "max_length": 64}
    with (
        pytest.raises(DataError, match=r"dtype 'float32' there, 'bfloat16' now") as refused,
        open_parts(folder, settings=other),
    ):
        pass
    message = str(refused.value)
    assert "max_length 128 there, 64 now" in message
    assert "reward_model" not in message
    assert "\n" not in message


def test_a_setting_that_one_side_lacks_is_a_difference(folder: Path) -> None:
    with (
        pytest.raises(DataError, match="device None there, 'cpu' now"),
        open_parts(folder, settings=SETTINGS | {"device": "cpu"}),
    ):
        pass


def test_refused_settings_leave_the_parts_alone(folder: Path) -> None:
    with pytest.raises(DataError), open_parts(folder, settings={}):
        pass
    assert stored_scores(folder) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"'])
def test_settings_that_are_no_object_are_refused(folder: Path, content: str) -> None:
    (folder / "settings.json").write_text(content)
    with (
        pytest.raises(DataError, match=r"settings\.json.*delete"),
        open_parts(folder, settings=SETTINGS),
    ):
        pass


def test_parts_without_settings_are_refused(folder: Path) -> None:
    (folder / "settings.json").unlink()
    with (
        pytest.raises(DataError, match="nothing says what made the parts"),
        open_parts(folder, settings=SETTINGS),
    ):
        pass


def test_a_run_that_ends_before_its_first_part_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        open_parts(tmp_path / "parts", settings={"dtype": "float32"}),
    ):
        raise KeyboardInterrupt
    assert not (tmp_path / "parts").exists()


def test_settings_without_a_part_bind_nobody(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()  # as a kill before the first part leaves it
    (tmp_path / "parts" / "settings.json").write_text('{"dtype": "float32"}')
    with open_parts(tmp_path / "parts", settings={"dtype": "bfloat16"}) as parts:
        parts.append(rows(1.0))
    with pytest.raises(DataError), open_parts(tmp_path / "parts", settings={"dtype": "float32"}):
        pass


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.parts"
    path.write_text("mine")
    with pytest.raises(DataError, match="is a file"), open_parts(path, settings=SETTINGS):
        pass
    assert path.read_text() == "mine"


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no" / "scores.parts"
    with pytest.raises(DataError, match="no such directory"), open_parts(path, settings=SETTINGS):
        pass


def test_removing_takes_the_whole_folder_and_nothing_else(folder: Path) -> None:
    beside = folder.parent / "scores.parquet"
    beside.write_text("kept")
    remove_parts(folder)
    remove_parts(folder)  # a second time there is nothing to do
    assert list(folder.parent.iterdir()) == [beside]


def test_removing_leaves_what_is_not_a_part(folder: Path) -> None:
    (folder / "notes.txt").write_text("kept")
    remove_parts(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_lock_on_a_folder_that_was_deleted_meanwhile_is_not_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def delete_and_take(lock: TextIO, operation: int) -> None:
        if not taken:  # the former holder ends between our opening the lock and our taking it
            (folder / "lock").unlink()
        taken.append(os.fstat(lock.fileno()).st_ino)
        flock(lock, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", delete_and_take)
    with open_parts(folder, settings=SETTINGS):
        assert (folder / "lock").stat().st_ino == taken[-1]
    assert len(taken) == 2


HOLDER = """
import sys, time
from charm_rm.data.parts import open_parts
import polars as pl
with open_parts(sys.argv[1], settings={}) as parts:
    parts.append(pl.DataFrame({"score": [7.0]}))
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path: Path) -> tuple[Path, subprocess.Popen[str]]:
    """A folder that another process holds, and that process."""
    folder = tmp_path / "held.parts"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout as lines:
        assert lines.readline() == "held\n"
    return folder, holder


def test_two_runs_do_not_write_one_output(held: tuple[Path, subprocess.Popen[str]]) -> None:
    folder, holder = held
    try:
        expected = rf"another run \(process {holder.pid}\) writes here"
        with pytest.raises(DataError, match=expected), open_parts(folder, settings={}):
            pass
        with pytest.raises(DataError, match=expected):
            remove_parts(folder)
    finally:
        holder.kill()
        holder.wait()


def test_a_killed_run_lets_go_and_leaves_its_parts(
    held: tuple[Path, subprocess.Popen[str]],
) -> None:
    folder, holder = held
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    with open_parts(folder, settings={}) as parts:
        frame = parts.read()
    assert frame is not None
    assert frame["score"].to_list() == [7.0]


WRITER = """
import sys
from charm_rm.data.parts import open_parts
import polars as pl
with open_parts(sys.argv[1], settings={}) as parts:
    for number in range(1_000_000):
        parts.append(pl.DataFrame({"number": [number] * 1000}))
"""


def test_a_kill_while_writing_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    folder = tmp_path / "killed.parts"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
    try:
        while len(list(folder.glob("*-*.parquet"))) < 5:
            assert writer.poll() is None
            time.sleep(0.01)
    finally:
        writer.kill()
        writer.wait()
    with open_parts(folder, settings={}) as parts:
        frame = parts.read()
    assert frame is not None
    n_parts = frame["number"].n_unique()
    assert n_parts >= 5
    assert frame["number"].to_list() == [n for n in range(n_parts) for _ in range(1000)]


def test_a_full_disk_is_said_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", full)  # stands for the first write
        with (
            pytest.raises(DataError, match=r"parts/lock: not written .*No space left"),
            open_parts(tmp_path / "parts", settings=SETTINGS),
        ):
            pass
    assert stored_scores(tmp_path / "parts") == []
