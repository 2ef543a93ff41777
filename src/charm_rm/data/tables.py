"""Table files: read in the format that users have, written whole or not at all.

Every reader of the package goes through `read_table` and every writer through `replacing`, so
that a bad file is one line of explanation and a full disk or a kill leaves the old file whole.
"""

import difflib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.formats import READERS

SHOWN_NAMES = 5  # of a list that may be long
ARROW_FOLDER_FILES = ("dataset_info.json", "state.json")


class DataError(ValueError):
    """A file or table that can't be used: what is wrong, the value, where, what to do."""


def read_table(path: str | Path) -> pl.DataFrame:
    r"""A table from Parquet, CSV, JSON, JSON lines, or a Hugging Face data set directory.

    The suffix decides. A local path, or any address that polars reads (``hf://``, ``s3://``) of
    Parquet, CSV or JSON lines.

    Args:
        path: ``.parquet``, ``.csv``, ``.json`` (a list of objects), ``.jsonl`` / ``.ndjson``, or
            a directory written by ``Dataset.save_to_disk``.

    Returns:
        The table as it stands in the file.

    Raises:
        DataError: If the file is missing, empty, of an unknown kind, or not a table.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "scores.csv"
        >>> _ = path.write_text("policy,score\na,1.5\n", encoding="utf-8")
        >>> read_table(path).rows()
        [('a', 1.5)]
        >>> folder.cleanup()
    """
    name = str(path)
    remote = "://" in name
    if not remote and not Path(name).exists():
        raise DataError(f"{name}: no such file; check the path")
    if not remote and Path(name).is_dir():
        return _read_arrow_folder(Path(name))
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise DataError(f"{name}: unknown kind of table; give one of {', '.join(READERS)}")
    try:
        if remote:
            return reader(name)
        with Path(name).open("rb") as file:  # by handle: in a name, [ * ? are no pattern
            return reader(file)
    except (
        pl.exceptions.PolarsError,
        OSError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{name}: not a readable table ({reason}); check the file") from error


def _read_arrow_folder(folder: Path) -> pl.DataFrame:
    """A directory of ``Dataset.save_to_disk``: its Arrow files, in the order of its state."""
    if not all((folder / name).is_file() for name in ARROW_FOLDER_FILES):
        raise DataError(
            f"{folder}: a directory, but not a Hugging Face data set; "
            f"it needs {' and '.join(ARROW_FOLDER_FILES)}"
        )
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
        return pl.concat([pl.read_ipc_stream(file) for file in files])
    except (
        pl.exceptions.PolarsError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: not a readable data set ({reason}); save it again") from error


_WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".csv": lambda frame, path: frame.write_csv(path),
    ".jsonl": lambda frame, path: frame.write_ndjson(path),
}


def require_columns(frame: pl.DataFrame, columns: Iterable[str], *, where: str) -> None:
    """A table that has all of these columns, or one line that names the missing ones.

    Args:
        frame: The table.
        columns: Names it must have.
        where: The file it came from, for the message.

    Raises:
        DataError: If a column is missing.

    Example:
        >>> require_columns(pl.DataFrame({"score": [1.0]}), ["score"], where="scores.csv")
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(repr(column) for column in missing)}; "
            f"it has {', '.join(frame.columns) or 'none'}"
        )


def require_plain_columns(frame: pl.DataFrame, columns: Iterable[str], *, where: str) -> None:
    """Columns that hold one value a row, not lists or records; those not there are passed over.

    Args:
        frame: The table.
        columns: Names of the columns.
        where: The file it came from, for the message.

    Raises:
        DataError: If a column is nested.

    Example:
        >>> require_plain_columns(pl.DataFrame({"score": [1.0]}), ["score"], where="scores.csv")
    """
    for column in columns:
        if column in frame.columns and frame.schema[column].is_nested():
            raise DataError(
                f"{where}: column {column!r} holds {frame.schema[column]}, not one value a row; "
                "unnest it first"
            )


def require_number_columns(frame: pl.DataFrame, columns: Iterable[str], *, where: str) -> None:
    """Columns of numbers, or of texts that are to be read as numbers; not dates, not truth values.

    Args:
        frame: The table.
        columns: Names of the columns; those not there are passed over.
        where: The file it came from, for the message.

    Raises:
        DataError: If a column holds something else, one value a row or many.

    Example:
        >>> require_number_columns(pl.DataFrame({"score": ["1.5"]}), ["score"], where="scores.csv")
    """
    require_plain_columns(frame, columns := list(columns), where=where)
    for column in columns:
        kind = frame.schema.get(column, pl.Null())
        if not (kind.is_numeric() or kind in (pl.String, pl.Null)):
            raise DataError(
                f"{where}: column {column!r} holds {kind}, not numbers; give numbers there"
            )


def refuse_existing(path: str | Path, *, force: bool, inputs: Iterable[str | Path] = ()) -> None:
    """A path that may be written: not there yet, or there and to be replaced.

    Args:
        path: Where the output is to go.
        force: Whether an existing file may be replaced.
        inputs: Files that are read, which the output must not replace.

    Raises:
        DataError: If something is there and ``force`` is not set, it is one of the inputs or no
            file, or the folder is missing.

    Example:
        >>> refuse_existing("no-such-file.parquet", force=False)
    """
    target = Path(path)
    if target.exists() and not force:
        raise DataError(f"{target}: exists already; give --force to replace it")
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise DataError(f"{target}: is a device or the like, which can't be replaced; name a file")
    if any(Path(name).exists() and target.exists() and target.samefile(name) for name in inputs):
        raise DataError(f"{target}: is an input of this run; name another output")
    if not target.parent.is_dir():
        raise DataError(f"{target}: its folder does not exist; create {target.parent} first")


def replacing(path: str | Path, write: Callable[[Path], object], *, force: bool = False) -> None:
    """A file written beside its target and moved over it when it is whole.

    Args:
        path: The target.
        write: Writes the content to the path that it is given.
        force: Whether an existing file may be replaced.

    Raises:
        DataError: If the target exists and ``force`` is not set, or it can't be written. The
            old file, if any, is then still whole.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> replacing(Path(folder.name) / "a.txt", lambda path: path.write_text("whole"))
        >>> (Path(folder.name) / "a.txt").read_text()
        'whole'
        >>> folder.cleanup()
    """
    refuse_existing(path, force=force)
    target = Path(path).resolve()  # what a link points to is replaced, not the link
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        part = Path(name)
        try:
            write(part)
            _flush(part)
            part.chmod(0o666 & ~_umask())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not written ({reason}); check space and rights") from error


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_table(frame: pl.DataFrame, path: str | Path, *, force: bool = False) -> None:
    """A table written as Parquet, CSV or JSON lines, whole or not at all.

    Args:
        frame: The table.
        path: ``.parquet``, ``.csv`` or ``.jsonl``.
        force: Whether an existing file may be replaced.

    Raises:
        DataError: If the suffix is unknown, the target exists, or it can't be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> write_table(pl.DataFrame({"a": [1]}), Path(folder.name) / "a.parquet")
        >>> read_table(Path(folder.name) / "a.parquet").rows()
        [(1,)]
        >>> folder.cleanup()
    """
    writer = _WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise DataError(f"{path}: unknown kind of table; give one of {', '.join(_WRITERS)}")
    replacing(path, lambda part: writer(frame, part), force=force)


def write_text(text: str, path: str | Path, *, force: bool = False) -> None:
    """A text file in UTF-8, whole or not at all.

    Args:
        text: The content.
        path: Where it goes.
        force: Whether an existing file may be replaced.

    Raises:
        DataError: If the target exists and ``force`` is not set, or it can't be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> write_text("{}", Path(folder.name) / "offsets.json")
        >>> folder.cleanup()
    """
    replacing(path, lambda part: part.write_text(text, encoding="utf-8"), force=force)


def write_json(document: Any, path: str | Path, *, force: bool = False) -> None:
    """A JSON document in UTF-8, indented, whole or not at all.

    Args:
        document: What `json.dumps` takes; NaN and infinities are refused.
        path: Where it goes.
        force: Whether an existing file may be replaced.

    Raises:
        DataError: If the target exists and ``force`` is not set, or it can't be written.
        ValueError: If the document holds NaN or an infinity.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> write_json({"offset": -1.0}, Path(folder.name) / "offsets.json")
        >>> folder.cleanup()
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(text + "\n", path, force=force)


def nearest_names(name: str, names: Iterable[str], *, n: int = 3) -> list[str]:
    """The known names closest to one that was not found: those that contain it, then those alike.

    Args:
        name: What was asked for.
        names: What there is.
        n: How many to return at most.

    Returns:
        Up to ``n`` names; upper and lower case count as the same.

    Example:
        >>> nearest_names("gpt-4o-mini", ["gpt-4o-mini-2024-07-18", "vicuna-7b"])
        ['gpt-4o-mini-2024-07-18']
    """
    by_lower = {known.lower(): known for known in names}
    holding = [lower for lower in by_lower if name and name.lower() in lower]
    close = difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.5)
    best = sorted(holding, key=len) + [lower for lower in close if lower not in holding]
    return [by_lower[lower] for lower in best[:n]]


def list_some(names: Sequence[str]) -> str:
    """The first names of a list that may be long, and how many more there are.

    Args:
        names: In the order to show.

    Returns:
        A text to put into a sentence.

    Example:
        >>> list_some(["a", "b"]), list_some(list("abcdefgh"))
        ('a, b', 'a, b, c, d, e and 3 more')
    """
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def not_found(what: str, name: str, *, names: Sequence[str], where: str) -> DataError:
    """The error for a name that is not among the known ones, listing the nearest.

    Args:
        what: Kind of thing, such as ``"policy"``.
        name: What was asked for.
        names: What there is.
        where: Where it was looked for.

    Returns:
        The error, to be raised.

    Example:
        >>> str(not_found("policy", "vicuna", names=["vicuna-7b"], where="scores.csv"))
        "scores.csv: no policy 'vicuna'; nearest: vicuna-7b"
    """
    near = nearest_names(name, names)
    hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(names[:8])}"
    return DataError(f"{where}: no {what} {name!r}; {hint}")
