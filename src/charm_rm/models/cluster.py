"""An actor pool over Ray Data: one callable, applied to chunks of a table on many machines.

A worker builds the callable once (it loads a model) and then maps chunk after chunk. The chunks
come back in the order in which they are done, so a chunk carries the keys of its rows. A worker
that dies is started again and its chunk is done again; a mistake in the input ends the run at
once. This module knows nothing of scores or models and keeps nothing: who calls it stores what
comes back.
"""

import importlib.util
import io
import logging
import math
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import polars as pl

from charm_rm.data.parts import Setting, differing_settings
from charm_rm.data.tables import DataError

T = TypeVar("T")
MapChunk = Callable[[pl.DataFrame], pl.DataFrame]

LOCAL = "local"  # a cluster of this machine's own, for this run
AUTO = "auto"  # the cluster that already runs on this machine
DEATHS_PER_CHUNK = 3  # workers that one chunk may take with it before the run is given up
CONNECT_SECONDS = 5.0
_DEADLY = (
    f"a chunk killed {DEATHS_PER_CHUNK} workers, one after the other; they may need more memory: "
    "give fewer --ray-workers, a smaller --max-length or larger nodes"
)


@dataclass(frozen=True)
class Workers:
    """How a pool is laid out.

    Attributes:
        n: Workers, each with a model of its own.
        cpus: Cores of each; also its threads, unless OMP_NUM_THREADS says otherwise.
        gpus: GPUs of each: 1, a share such as 0.5, or 0.
    """

    n: int
    cpus: int
    gpus: float


def plan_workers(
    nodes: Sequence[Mapping[str, float]], *, n_workers: int | None = None, use_gpus: bool = True
) -> Workers:
    """One worker per GPU; in a cluster without GPUs, one per node with all of its cores.

    Args:
        nodes: What each node has, in Ray's words: ``CPU`` and, where there are some, ``GPU``.
        n_workers: Workers wanted. More than there are GPUs share them; more than there are nodes
            share the cores.
        use_gpus: Whether the workers compute on GPUs where there are some.

    Returns:
        The layout, which fits on the nodes.

    Raises:
        DataError: If no node has a core, or there are fewer cores than workers.

    Example:
        >>> plan_workers([{"CPU": 96.0, "GPU": 8.0}, {"CPU": 96.0, "GPU": 8.0}])
        Workers(n=16, cpus=1, gpus=1.0)
        >>> plan_workers([{"CPU": 16.0}], n_workers=4)
        Workers(n=4, cpus=4, gpus=0.0)
    """
    n_gpus = int(sum(node.get("GPU", 0.0) for node in nodes)) if use_gpus else 0
    cores = [int(node.get("CPU", 0.0)) for node in nodes if node.get("CPU", 0.0) >= 1.0]
    n = n_workers or n_gpus or len(cores)
    if not cores or n > sum(cores):
        raise DataError(
            f"{n or 'no'} workers on {sum(cores)} cores: each needs one; "
            "give fewer with --ray-workers, or more nodes"
        )
    if n_gpus:
        return Workers(n=n, cpus=1, gpus=1.0 / math.ceil(n / n_gpus))
    return Workers(n=n, cpus=_cores_each(cores, n), gpus=0.0)


def _cores_each(cores: Sequence[int], n: int) -> int:
    """Most cores that each of ``n`` workers can have when none of them spans two nodes."""
    cpus = max(1, sum(cores) // n)
    while sum(node // cpus for node in cores) < n:
        cpus -= 1
    return cpus


@contextmanager
def open_cluster(address: str) -> Iterator[list[Mapping[str, float]]]:
    """A connection to a Ray cluster; one that this process has already is used and left open.

    Args:
        address: ``"local"`` for a cluster of this machine's own, which listens on the loopback
            interface alone and ends with the block; ``"auto"`` for the one that runs here or that
            RAY_ADDRESS names; ``HOST:PORT`` of a head node; empty for ``"auto"`` where RAY_ADDRESS
            is set (as it is in a Ray job), else ``"local"``.

    Yields:
        What each living node has, in Ray's words (``CPU``, ``GPU``, ...).

    Raises:
        DataError: If Ray is not installed or no cluster answers at the address.

    Example:
        >>> with open_cluster("moon"):
        ...     pass
        Traceback (most recent call last):
        charm_rm.data.tables.DataError: --ray moon: not an address; give HOST:PORT, auto or local
    """
    address = address or (AUTO if os.environ.get("RAY_ADDRESS") else LOCAL)
    if address not in (LOCAL, AUTO):
        _require_listener(address)
    if importlib.util.find_spec("ray") is None:
        raise DataError("--ray needs ray: pip install 'charm-rm[ray]'")
    if address == LOCAL:
        # Without this variable Ray listens on every interface of the machine.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the log files keep the rest
    import ray

    if ray.is_initialized():
        yield _live_nodes()
        return
    own = {"include_dashboard": False} if address == LOCAL else {}
    with redirect_stdout(sys.stderr):  # where Ray tells of dead workers
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise DataError(
                f"--ray {address}: no Ray cluster to be had ({_reason(error)}); start one with "
                "'ray start --head', or leave the address out"
            ) from error
        try:
            yield _live_nodes()
        finally:
            ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray itself waits a minute for a head node that is not there."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise DataError(
            f"--ray {address}: Ray's client is not used; run this on a node of the cluster "
            "with --ray auto, or through 'ray job submit'"
        )
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise DataError(f"--ray {address}: not an address; give HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise DataError(
            f"--ray {address}: no answer there ({error.strerror or error}); check that the head "
            "node runs and that this machine reaches it"
        ) from error


def _live_nodes() -> list[Mapping[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def call_on_worker(function: Callable[[], T], *, workers: Workers) -> T:
    """What a function returns on one worker of the open cluster, called once.

    Args:
        function: What to call; it and its result travel by pickle.
        workers: The layout; the call gets what one worker gets.

    Returns:
        The result.

    Raises:
        DataError: If the function raises a `ValueError` or an `OSError`, with its message, or the
            worker dies.
        ValueError: If no cluster is open.

    Example:
        >>> call_on_worker(dict, workers=Workers(n=1, cpus=1, gpus=0.0))
        Traceback (most recent call last):
        ValueError: no cluster is open; call this inside open_cluster
    """
    _require_cluster()
    import ray

    task = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=0)(_call)
    with _one_line():
        result, message = ray.get(task.remote(function))
    if message is not None:
        raise DataError(message)
    return result  # type: ignore[no-any-return]


def _call(function: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return function(), None
    except (ValueError, OSError) as error:
        return None, str(error)


def require_same_model(
    found: Mapping[str, Setting], settings: Mapping[str, Setting], *, name: str
) -> None:
    """A model on this worker that is the one of the others.

    Args:
        found: Its fingerprint here.
        settings: Its fingerprint on the worker that loaded it first.
        name: Of the model.

    Raises:
        DataError: If they differ.

    Example:
        >>> require_same_model({"dtype": "float32"}, {"dtype": "float32"}, name="rm")
    """
    if differences := differing_settings(settings, found):
        raise DataError(
            f"{name}: two workers loaded different models ({differences}); "
            "give all nodes the same files and --dtype"
        )


def map_chunks(
    chunks: Sequence[pl.DataFrame], make: Callable[[], MapChunk], *, workers: Workers
) -> Iterator[pl.DataFrame]:
    """Chunks mapped by the workers of the open cluster, in the order in which they are done.

    Args:
        chunks: Tables of the same columns, with at least one row each; none start no worker.
        make: Called once on each worker; what it returns maps a chunk to a table.
        workers: The layout of the pool.

    Yields:
        One mapped table per chunk. A chunk whose worker dies is mapped again by another.

    Raises:
        DataError: If ``make`` or what it returns raises a `ValueError` or an `OSError`, with its
            message, or a chunk takes three workers with it.
        ValueError: If no cluster is open.

    Example:
        >>> next(map_chunks([pl.DataFrame({"key": ["a"]})], dict, workers=Workers(1, 1, 0.0)))
        Traceback (most recent call last):
        ValueError: no cluster is open; call this inside open_cluster
    """
    if not chunks:
        return
    _require_cluster()
    import ray.data

    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    tally = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tally).remote()
    packed = [_pack(chunk, number) for number, chunk in enumerate(chunks)]
    mapped = ray.data.from_arrow(packed).map_batches(
        _Worker,
        fn_constructor_args=(make, tally),
        batch_size=1,  # a chunk is a row, of one block
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers.n, len(chunks))),
        num_cpus=None if workers.gpus else workers.cpus,  # with a GPU, Ray Data adds the core
        num_gpus=workers.gpus or None,
    )
    with _one_line():
        for block in mapped.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in block.to_pylist():
                if row["message"] is not None:
                    raise DataError(row["message"])
                yield _unpack(row)


def _require_cluster() -> None:
    """Ray would start one of its own accord, open to every machine around."""
    import ray

    if not ray.is_initialized():
        raise ValueError("no cluster is open; call this inside open_cluster")


class _Tally:
    """How often each chunk was begun; Ray itself would try for ever."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self._begun[number] += 1
        return self._begun[number]


class _Worker:
    """What an actor runs. Ray shows an exception as a page, so messages travel as rows."""

    def __init__(self, make: Callable[[], MapChunk], tally: Any) -> None:
        self._made, self._message = _call(make)
        self._tally = tally

    def __call__(self, block: Any) -> Any:
        import ray

        (row,) = block.to_pylist()
        begun = ray.get(self._tally.begin.remote(row["number"]))
        if begun > DEATHS_PER_CHUNK:
            return _pack(None, row["number"], message=_DEADLY)
        if self._message is not None:
            return _pack(None, row["number"], message=self._message)
        mapped, message = _call(partial(self._made, _unpack(row)))
        return _pack(mapped, row["number"], message=message)


def _pack(chunk: pl.DataFrame | None, number: int, *, message: str | None = None) -> Any:
    """An Arrow table of one row, which Ray can neither split nor bundle wrongly."""
    content = None
    if chunk is not None:
        buffer = io.BytesIO()
        chunk.write_ipc(buffer)
        content = buffer.getvalue()
    schema = {"number": pl.Int64, "content": pl.Binary, "message": pl.String}
    return pl.DataFrame([(number, content, message)], schema=schema, orient="row").to_arrow()


def _unpack(row: Mapping[str, Any]) -> pl.DataFrame:
    return pl.read_ipc(io.BytesIO(row["content"]))


@contextmanager
def _one_line() -> Iterator[None]:
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise DataError(
            f"the cluster gave the work up ({_reason(error)}); "
            "see Ray's logs on the node, then run the command again to resume"
        ) from error


def _reason(error: BaseException) -> str:
    """The last line of Ray's message, which shows the remote traceback above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
