"""Part files: work that is on disk is never done again.

A long stage opens a folder of parts, reads what earlier runs left there, and appends one Parquet
file per finished chunk. The folder holds:

* ``settings.json``: what the parts were made with. A run with other settings is refused.
* ``000017-5f0c2b9a41d3.parquet``: one part; the second half of its name is the SHA-256 of its
  bytes, so that a torn, truncated or altered part is recognised and done again.
* ``lock``: held for as long as a run writes here. The system releases it when that run dies.

This module knows nothing of scores or models, joins nothing, and never leaves a half-written file
under a part's name.
"""

import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import polars as pl

from charm_rm.data.tables import DataError, replacing, write_json

SETTINGS_FILE = "settings.json"
LOCK_FILE = "lock"
DIGEST_LENGTH = 12  # hex digits of SHA-256 in a part's name
_PART_NAME = re.compile(rf"(?P<index>\d{{6,}})-(?P<digest>[0-9a-f]{{{DIGEST_LENGTH}}})\.parquet")

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Parts:
    """An open, locked folder of part files; made by `open_parts`.

    Attributes:
        folder: Where the parts lie.
        n_dropped: Unreadable or altered parts that were found and deleted on opening.
    """

    folder: Path
    n_dropped: int = 0

    def read(self) -> pl.DataFrame | None:
        """All rows of all parts in the order in which they were written.

        Returns:
            One table, or None when there is no part yet.
        """
        paths = _part_paths(self.folder)
        return pl.concat([pl.read_parquet(path) for path in paths]) if paths else None

    def append(self, frame: pl.DataFrame) -> Path:
        """Writes one finished chunk as a new part, durably, under its name only once whole.

        Args:
            frame: Rows of the chunk, with the same columns in every part.

        Returns:
            The path of the new part.
        """
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        content = buffer.getvalue()
        paths = _part_paths(self.folder)
        index = _part_index(paths[-1]) + 1 if paths else 0
        path = self.folder / f"{index:06d}-{_digest(content)}.parquet"
        replacing(path, lambda part: part.write_bytes(content))
        return path


@contextmanager
def open_parts(folder: str | Path, *, settings: Mapping[str, Setting]) -> Iterator[Parts]:
    """Opens a folder of parts for one run, alone, and drops the parts that cannot be trusted.

    Args:
        folder: The folder of parts; made if it is missing.
        settings: What decides the content of the parts (model, precision, ...). The first run
            stores it; later runs must bring the same.

    Yields:
        The open folder. Its lock is released when the block ends or the process dies; a folder
        that is left without a part is deleted, for nothing in it is worth resuming.

    Raises:
        DataError: If another run holds the folder, if ``folder`` is a file or its parent does not
            exist, or if the stored settings differ from ``settings``.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "scores.parts"
        >>> with open_parts(folder, settings={"dtype": "float32"}) as parts:
        ...     path = parts.append(pl.DataFrame({"score": [1.5]}))
        >>> with open_parts(folder, settings={"dtype": "float32"}) as parts:
        ...     print(parts.read()["score"].to_list())
        [1.5]
    """
    folder = Path(folder)
    with locked(folder):
        _check_settings(folder, settings)
        try:
            yield Parts(folder=folder, n_dropped=_drop_untrusted_parts(folder))
        finally:
            if not _part_paths(folder):
                _delete_own(folder)


def differing_settings(stored: Mapping[str, Setting], settings: Mapping[str, Setting]) -> str:
    """Settings that are not what they were, in words; empty where all are.

    Args:
        stored: Of the run before.
        settings: Of this one.

    Example:
        >>> differing_settings({"seed": 0, "dtype": "float32"}, {"seed": 1, "dtype": "float32"})
        'seed 0 there, 1 now'
    """
    return "; ".join(
        f"{key} {stored.get(key)!r} there, {settings.get(key)!r} now"
        for key in sorted({*stored, *settings})
        if stored.get(key) != settings.get(key)
    )


def remove_parts(folder: str | Path) -> None:
    """Deletes the parts whose rows are safe elsewhere, and their folder unless others use it.

    A missing folder is no error; files that are not parts stay.

    Args:
        folder: The folder of parts.

    Raises:
        DataError: If another run holds the folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "scores.parts"
        >>> with open_parts(folder, settings={}) as parts:
        ...     path = parts.append(pl.DataFrame({"score": [1.5]}))
        >>> remove_parts(folder)
        >>> folder.exists()
        False
    """
    folder = Path(folder)
    if folder.is_dir():
        with locked(folder):
            _delete_own(folder)


def _delete_own(folder: Path) -> None:
    for path in [*_part_paths(folder), folder / SETTINGS_FILE, folder / LOCK_FILE]:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder's lock file, or says in one line who does.

    Args:
        folder: The folder of an unfinished run; made if it is missing.

    Yields:
        Nothing; the system releases the lock when the process dies.

    Raises:
        DataError: If another run holds it, it is a file, or its parent does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent, locked(Path(parent) / "rm.parts"):
        ...     sorted(path.name for path in Path(parent, "rm.parts").iterdir())
        ['lock']
    """
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise DataError(f"{folder}: is a file, not a folder of parts; move it away") from None
    except FileNotFoundError:
        raise DataError(
            f"{folder.parent}: no such directory; make it or choose another output"
        ) from None
    path = folder / LOCK_FILE
    # The holder deletes the folder when it is done. A lock on a deleted file protects nothing, so
    # look again until the locked file is the one that lies there.
    while True:
        folder.mkdir(exist_ok=True)
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise DataError(
                    f"{folder}: another run (process {lock.read().strip() or 'unknown'}) writes "
                    "here; wait for it or choose another output"
                ) from None
            if not _is_same_file(lock.fileno(), path):
                continue
            _write_owner(lock, path)
            yield
            return


def _write_owner(lock: TextIO, path: Path) -> None:
    """Says in a lock file who holds it; on a full disk this is the first thing to fail."""
    try:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    except OSError as error:
        with suppress(OSError):
            lock.close()  # or what could not be written is tried again
        raise DataError(f"{path}: not written ({error}); check space and rights") from error


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _check_settings(folder: Path, settings: Mapping[str, Setting]) -> None:
    """Stores the settings of a folder without parts; refuses other settings in a used one."""
    path = folder / SETTINGS_FILE
    if not _part_paths(folder):
        write_json(dict(settings), path, force=True)
        return
    require_settings(folder, settings)


def require_settings(folder: Path, settings: Mapping[str, Setting]) -> None:
    """An unfinished run that goes on as it began, or one line that says what differs.

    Args:
        folder: Where ``settings.json`` lies.
        settings: Those of the run that is to go on.

    Raises:
        DataError: If the stored ones differ, or there are none.

    Example:
        >>> require_settings(Path("no-such-folder"), {})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: no-such-folder/settings.json: missing or not a JSON ...
    """
    path = folder / SETTINGS_FILE
    stored = _read_settings(path)
    if stored is None:
        raise DataError(
            f"{path}: missing or not a JSON object, so nothing says what made the parts "
            "beside it; delete the folder or choose another output"
        )
    if differences := differing_settings(stored, settings):
        raise DataError(
            f"{folder}: an unfinished run was made with other settings ({differences}); "
            "repeat them, delete the folder, or choose another output"
        )


def _read_settings(path: Path) -> dict[str, Setting] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


def _drop_untrusted_parts(folder: Path) -> int:
    """Deletes left-over temporary files and parts whose bytes are not those that were written."""
    for leftover in folder.glob(".*.parquet.*"):
        leftover.unlink()
    torn = [
        path
        for path in _part_paths(folder)
        if _digest(path.read_bytes()) != path.stem.partition("-")[2]
    ]
    for path in torn:
        path.unlink()
    return len(torn)


def _part_paths(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if _PART_NAME.fullmatch(path.name)]
    return sorted(paths, key=_part_index)


def _part_index(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]
