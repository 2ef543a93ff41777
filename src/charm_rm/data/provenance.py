"""How a table of scores was made, kept with the table: model, precision, length, versions.

In Parquet it stands in the file's own metadata; beside CSV and JSON lines in a second file that
also holds the digest of the first, so that it is not believed once the table was changed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from charm_rm.data.tables import DataError, replacing, write_json, write_table

KEY = "charm_rm"  # of the Parquet metadata
LIBRARIES = ("charm-rm", "torch", "transformers", "tokenizers", "safetensors", "peft", "polars")


def write_scores(
    scores: pl.DataFrame, path: str | Path, *, made_by: Mapping[str, Any], force: bool = False
) -> None:
    """Scores with what made them, whole or not at all.

    Args:
        scores: The table.
        path: ``.parquet``, ``.csv`` or ``.jsonl``; the last two get a second file beside them,
            ``PATH.made_by.json``.
        made_by: What `json.dumps` takes; the settings of the model stand under ``"model"``.
        force: Whether existing files may be replaced.

    Raises:
        DataError: If the suffix is unknown, the target exists, or it can't be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "scores.csv"
        >>> write_scores(pl.DataFrame({"score": [1.0]}), path, made_by={"version": "0.1.0"})
        >>> read_provenance(path)
        {'version': '0.1.0'}
        >>> folder.cleanup()
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        metadata = {KEY: json.dumps(dict(made_by), ensure_ascii=False)}
        replacing(path, lambda part: scores.write_parquet(part, metadata=metadata), force=force)
        return
    write_table(scores, path, force=force)
    write_json({"made_by": dict(made_by), "sha256": _digest(path)}, _beside(path), force=True)


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """What made a table, if the table says so.

    Args:
        path: A file.

    Returns:
        What `write_scores` was given; None for files of other origin, addresses and folders, and
        where a table was changed since.

    Example:
        >>> read_provenance("no-such-file.parquet")
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".parquet":
            return _an_object(pl.read_parquet_metadata(path).get(KEY, ""))
        beside = _an_object(_beside(path).read_text(encoding="utf-8")) or {}
        made_by = beside.get("made_by")
        unchanged = beside.get("sha256") == _digest(path)
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None
    return made_by if unchanged and isinstance(made_by, dict) else None


def require_same_provenance(paths: Sequence[str | Path]) -> None:
    """Files that were scored in one way, or one line that says how they differ.

    Args:
        paths: Files of scores.

    Raises:
        DataError: If the settings of the model differ between two files, or one does not say.

    Example:
        >>> require_same_provenance(["scores.csv"])
    """
    settings = [(read_provenance(path) or {}).get("model") for path in paths]
    for path, other in zip(paths[1:], settings[1:], strict=True):
        if other == settings[0]:
            continue
        cure = "score them in one way, or give --mix-provenance"
        if other is None or settings[0] is None:
            silent = path if other is None else paths[0]
            raise DataError(f"{silent}: does not say how it was scored, the other does; {cure}")
        first = settings[0]
        differences = ", ".join(
            f"{key} {first.get(key)!r} and {other.get(key)!r}"
            for key in sorted({*first, *other})
            if first.get(key) != other.get(key)
        )
        raise DataError(f"{paths[0]}, {path}: scored in different ways ({differences}); {cure}")


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of the libraries that a score may depend on, of those that are installed.

    Args:
        names: As pip knows them.

    Returns:
        Name -> version.

    Example:
        >>> library_versions(["no-such-library"])
        {}
    """
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON document of a command of this package.

    Args:
        path: The file.

    Returns:
        The document.

    Raises:
        DataError: If it is missing, or no JSON object.

    Example:
        >>> read_json("no-such.json")
        Traceback (most recent call last):
        charm_rm.data.tables.DataError: no-such.json: no such file; check the path
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; check the path")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON document ({error}); check it") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}; give a JSON object")
    return found


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.made_by.json")


def _an_object(text: str) -> dict[str, Any] | None:
    found = json.loads(text) if text else None
    return found if isinstance(found, dict) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
