"""What the commands share: where words go, how errors end, and how a run is recorded."""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 140
UNWRITABLE = (errno.EBADF, errno.ENOSPC, errno.EIO)  # of files, the writers say which


class MissingExtraError(Exception):
    """A command needs a library that the installed extras do not bring."""


def words() -> "Console":
    """Standard error, for people: warnings, progress, what was done."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def page() -> "Console":
    """Standard output, for the result itself; in a pipe or a log, tables keep their width."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)  # [names] are no markup
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def print_json(document: Any) -> None:
    """One JSON document on standard output; NaN is refused."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def warn(messages: Iterable[str]) -> None:
    """Warnings on standard error, a line each."""
    for message in messages:
        sys.stderr.write(f"warning: {message}\n")


def say(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(message + "\n")


def fail(error: BaseException) -> NoReturn:
    """End with one line on standard error and status 1; CHARM_TRACEBACK=1 shows the traceback."""
    if os.environ.get("CHARM_TRACEBACK") == "1":
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
        text = f"standard output can't be written ({error.strerror}); give it a file"
    sys.stderr.write(f"error: {text}\n")
    with contextlib.suppress(OSError):  # which is what was said
        flush_output()
    sys.exit(1)


def reopen_streams() -> None:
    """Something to write to where a stream was closed before the start: words may be lost there.

    The result may not: its stream can be written to no more than before, and says so in the end.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        nowhere = os.open(os.devnull, os.O_RDONLY)
        sys.stdout = open(nowhere, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def flush_output() -> None:
    """All of the result given out; what can't be must not be tried again when the process ends.

    Raises:
        OSError: If it can't be given out.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def require_extra(command: str, module: str, *, extra: str) -> None:
    """A library that must be there for a command, or one line that says what to install.

    Raises:
        MissingExtraError: If the module can't be found.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"{command} needs {module}: pip install 'charm-rm[{extra}]'")


def record_run(inputs: Iterable[str | Path]) -> dict[str, Any]:
    """What made a file: version, command and the digest of each local input."""
    from charm_rm import __version__

    command = shlex.join(["charm", *sys.argv[1:]])
    digests = {str(path): _digest(Path(path)) for path in inputs if Path(path).is_file()}
    return {"version": __version__, "command": command, "inputs": digests}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
