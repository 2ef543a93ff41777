"""A policy on an actor pool: the responses that `charm_rm.models.local_policy` gives, from many.

To the run loop it is a policy like any other. The driver loads no model: it hands out chunks of
requests, and each worker writes the responses to its chunk, many at once. A response depends on its
prompt and seed alone, so it does not matter which worker it is written by, or again after a worker
died. Responses come back with their chunk; a killed run loses those of the chunks in flight.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from charm_rm.data.parts import Setting
from charm_rm.data.prompts import PROMPT_TYPE
from charm_rm.models.cluster import (
    MapChunk,
    Workers,
    call_on_worker,
    map_chunks,
    open_cluster,
    plan_workers,
    require_same_model,
)
from charm_rm.models.local_policy import LocalPolicy
from charm_rm.models.policies import Completion, Failure, Request

ROUNDS_PER_CHUNK = 4  # so that a worker's slots are full most of the time
CHUNKS_PER_WORKER = 4  # at least, so that none waits long for the last one
REQUEST: dict[str, Any] = {
    "prompt_id": pl.String,
    "sample": pl.Int64,
    "messages": PROMPT_TYPE,
    "seed": pl.Int64,
}
OUTCOME = {
    "prompt_id": pl.String,
    "sample": pl.Int64,
    "text": pl.String,
    "finish_reason": pl.String,
    "reasoning": pl.String,
    "n_prompt_tokens": pl.Int64,
    "n_tokens": pl.Int64,
    "failure": pl.String,
}

Load = Callable[[], LocalPolicy]


@dataclass(frozen=True)
class ClusterPolicy:
    """A policy on the workers of an open cluster: call it with requests, get outcomes.

    Attributes:
        name: Its hub id, or the name of its directory.
        dtype: Precision.
        device: Workers and what they compute on.
        context_length: Tokens of prompt and response that the model takes; None where unknown.
        warnings: What a user should know about how it is run, one line each.
        settings: Its fingerprint, which every worker must find again.
        n_at_once: Responses that one worker writes at once.
        load: Loads it on a worker.
        workers: The layout of the pool.
    """

    name: str
    dtype: str
    device: str
    context_length: int | None
    warnings: tuple[str, ...]
    settings: Mapping[str, Setting]
    n_at_once: int
    load: Load
    workers: Workers

    def fingerprint(self) -> dict[str, Setting]:
        """What decides its responses beside their seeds, as `LocalPolicy.fingerprint` says it."""
        return dict(self.settings)

    def __call__(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Hands the requests out to the workers.

        Args:
            requests: No sample of a prompt twice; read to the end before the first is handed out.

        Yields:
            One outcome a request, chunk by chunk, as the chunks come back.

        Raises:
            DataError: If a worker finds another model, memory or numbers fail it, or the cluster
                gives up.
        """
        asked = {(one.prompt_id, one.sample): one for one in requests}
        most = CHUNKS_PER_WORKER * self.workers.n
        size = min(ROUNDS_PER_CHUNK * self.n_at_once, math.ceil(len(asked) / most))
        frame = _frame_of(asked.values())
        chunks = list(frame.iter_slices(max(size, 1))) if asked else []
        writer = partial(make_writer, self.load, settings=self.settings)
        for outcomes in map_chunks(chunks, writer, workers=self.workers):
            for row in outcomes.iter_rows(named=True):
                request = asked[row.pop("prompt_id"), row.pop("sample")]
                yield _outcome_of(request, **row)


@contextmanager
def policy_on_cluster(
    load: Load, *, address: str, n_workers: int | None = None, device: str | None = None
) -> Iterator[ClusterPolicy]:
    """A policy on the workers of a cluster, which is left when the block ends.

    Args:
        load: Loads the policy, on whatever machine it is called; it travels by pickle.
        address: Of the cluster, as `charm_rm.models.cluster.open_cluster` takes it.
        n_workers: Workers, each with a model of its own; by default one per GPU, or one per node
            of a cluster without GPUs.
        device: PyTorch device that ``load`` asks for; the GPUs are left alone for ``"cpu"``.

    Yields:
        The policy, once one worker has loaded it.

    Raises:
        DataError: If the cluster is not reached or too small, or the policy can't be loaded.

    Example:
        >>> with policy_on_cluster(dict, address="moon"):
        ...     pass
        Traceback (most recent call last):
        charm_rm.data.tables.DataError: --ray moon: not an address; give HOST:PORT, auto or local
    """
    with open_cluster(address) as nodes:
        use_gpus = device is None or not device.startswith("cpu")
        workers = plan_workers(nodes, n_workers=n_workers, use_gpus=use_gpus)
        yield call_on_worker(partial(_describe, load, workers), workers=workers)


def _describe(load: Load, workers: Workers) -> ClusterPolicy:
    """What the driver must know of a policy that it does not load itself."""
    policy = load()
    device = policy.model.device.type
    return ClusterPolicy(
        name=policy.name,
        dtype=policy.dtype,
        device=f"{workers.n} worker{'s' * (workers.n > 1)} ({device})",
        context_length=policy.context_length,
        warnings=policy.warnings,
        settings=policy.fingerprint(),
        n_at_once=max(policy.n_slots, 1) * policy.n_lanes,
        load=load,
        workers=workers,
    )


def make_writer(load: Load, *, settings: Mapping[str, Setting]) -> MapChunk:
    """What a worker does with a chunk: writes the responses to its requests.

    Args:
        load: Loads the policy here.
        settings: The fingerprint that it must have.

    Returns:
        A function from requests to outcomes, both as tables.

    Raises:
        DataError: If the policy can't be loaded, or is not the one of the other workers.

    Example:
        >>> class Echo:
        ...     fingerprint = dict
        ...
        ...     def __call__(self, requests):
        ...         for request in requests:
        ...             yield Completion(request, request.messages[-1]["content"], "stop")
        >>> write_chunk = make_writer(Echo, settings={})
        >>> request = Request("p", 0, ({"role": "user", "content": "Hi"},), 7)
        >>> write_chunk(_frame_of([request])).row(0)
        ('p', 0, 'Hi', 'stop', None, None, None, None)
    """
    policy = load()
    require_same_model(policy.fingerprint(), settings, name=str(settings.get("policy_model")))

    def write_chunk(chunk: pl.DataFrame) -> pl.DataFrame:
        requests = [
            Request(**row | {"messages": tuple(row["messages"])})
            for row in chunk.iter_rows(named=True)
        ]
        rows = [_row_of(one) for one in policy(requests)]
        return pl.DataFrame(rows, schema=OUTCOME, orient="row")

    return write_chunk


def _frame_of(requests: Iterable[Request]) -> pl.DataFrame:
    return pl.DataFrame(
        [(one.prompt_id, one.sample, list(one.messages), one.seed) for one in requests],
        schema=REQUEST,
        orient="row",
    )


def _row_of(outcome: Completion | Failure) -> tuple[object, ...]:
    key = (outcome.request.prompt_id, outcome.request.sample)
    if isinstance(outcome, Failure):
        return *key, None, None, None, None, None, outcome.reason
    return (
        *key,
        outcome.text,
        outcome.finish_reason,
        outcome.reasoning,
        outcome.n_prompt_tokens,
        outcome.n_tokens,
        None,
    )


def _outcome_of(request: Request, *, failure: str | None, **row: Any) -> Completion | Failure:
    return Completion(request, **row) if failure is None else Failure(request, failure)
