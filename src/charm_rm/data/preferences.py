"""Preference pairs on disk: Parquet, JSON lines, or a Hugging Face data set directory.

The columns are TRL's conversational format with an explicit prompt: ``prompt``, ``chosen`` and
``rejected`` are message lists. The other columns say where a pair comes from.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import polars as pl

from charm_rm.data.tables import DataError, refuse_existing, write_table

ARROW_FILE = "data-00000-of-00001.arrow"
TEXT_COLUMNS = ("prompt", "chosen", "rejected")


def write_preferences(frame: pl.DataFrame, path: str | Path, *, force: bool = False) -> None:
    """Preference pairs written whole or not at all, in the format that the path names.

    Args:
        frame: Pairs as `charm_rm.pairs.build_pairs` gives them.
        path: ``.parquet``, ``.jsonl``, or a name without a suffix: a directory that
            ``datasets.load_from_disk`` opens.
        force: Whether existing output may be replaced.

    Raises:
        DataError: If the suffix is unknown, the target exists, or it can't be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> pairs = pl.DataFrame({"prompt_id": ["p"], "margin": [0.5]})
        >>> write_preferences(pairs, Path(folder.name) / "pairs")
        >>> sorted(file.name for file in (Path(folder.name) / "pairs").iterdir())
        ['data-00000-of-00001.arrow', 'dataset_info.json', 'state.json']
        >>> folder.cleanup()
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".parquet", ".jsonl"):
        write_table(frame, path, force=force)
    elif suffix == "":
        _write_arrow_folder(frame, Path(path), force=force)
    else:
        raise DataError(
            f"{path}: unknown kind of preference data; give .parquet, .jsonl, or a directory"
        )


def _write_arrow_folder(frame: pl.DataFrame, target: Path, *, force: bool) -> None:
    """The three files of ``Dataset.save_to_disk``, made beside the target and moved into place.

    The feature types are left to the Arrow schema, as they are for any table without them, so
    the files open in every release of the library.
    """
    refuse_existing(target, force=force)
    if target.exists() and not _is_arrow_folder(target):
        raise DataError(
            f"{target}: holds other things than a data set; --force replaces data sets only"
        )
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            frame.write_ipc_stream(part / ARROW_FILE, compat_level=pl.CompatLevel.oldest())
            (part / "dataset_info.json").write_text("{}\n", encoding="utf-8")
            state: dict[str, object] = {
                "_data_files": [{"filename": ARROW_FILE}],
                "_fingerprint": _fingerprint(part / ARROW_FILE),
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": None,
            }
            (part / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            part.chmod(0o755)
            _swap_in(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{target}: not written ({reason}); check space and rights") from error


def _is_arrow_folder(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    data = {name for name in names if name.endswith(".arrow")}
    return "state.json" in names and names <= {"state.json", "dataset_info.json", *data}


def _swap_in(part: Path, target: Path) -> None:
    """The new directory in the place of the old one, which comes back if that fails.

    No system call exchanges two directories everywhere: a kill between the two renames leaves the
    old one beside its place, under a name that begins with a dot.
    """
    if not target.exists():
        part.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / "data")
    try:
        part.rename(target)
    except OSError:
        (old / "data").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
