"""A directory of several files, put in the place of another at once."""

import shutil
import tempfile
from pathlib import Path


def replace_folder(part: Path, target: Path) -> None:
    """A new directory in the place of an old one, which comes back if that fails.

    No system call exchanges two directories everywhere: a kill between the two renames leaves the
    old one beside its place, under a name that begins with a dot.

    Args:
        part: The new directory, whole, beside the target.
        target: Its place.

    Raises:
        OSError: If it can't be moved there.

    Example:
        >>> import tempfile
        >>> parent = tempfile.TemporaryDirectory()
        >>> part, target = Path(parent.name) / "part", Path(parent.name) / "target"
        >>> part.mkdir()
        >>> replace_folder(part, target)
        >>> part.exists(), target.exists()
        (False, True)
        >>> parent.cleanup()
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
