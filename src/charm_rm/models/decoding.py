"""Sequences written token by token, many at once: a finished one is replaced by the next prompt.

A lane is a fixed number of slots (`charm_rm.models.slot_attention`) that step together. A CPU has a
lane for each of its threads, since two products on one thread each take less time than one product
on two; an accelerator has one. What a lane writes in a slot depends on that slot's prompt and seed
alone, so it does not matter which lane, slot or company a prompt meets.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charm_rm.data.tables import DataError
from charm_rm.models.drawing import draw_tokens, likeliest
from charm_rm.models.policies import Sampling
from charm_rm.models.slot_attention import SlotCache, prompt_logits, step_logits

STEPS = 16  # between two looks at what else is to be done


@dataclass(frozen=True)
class Job:
    """A response that is to be written.

    Attributes:
        number: By which the caller knows it.
        ids: The prompt as the model reads it.
        seed: What the response is drawn with.
    """

    number: int
    ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Written:
    """A finished response.

    Attributes:
        job: What it answers.
        ids: Token ids, without the one at which it stopped.
        stopped: Whether the model ended it; otherwise it is as long as it may be.
        first: Likeliest first token ids -> log-probability, as many as were asked for.
    """

    job: Job
    ids: tuple[int, ...]
    stopped: bool
    first: Mapping[int, float] = field(default_factory=dict)


@dataclass
class _Sequence:
    """What is in a slot: a prompt, and what was written so far."""

    job: Job
    draws: np.random.Generator
    ids: list[int] = field(default_factory=list)
    first: Mapping[int, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(self.job.ids) + len(self.ids)


class Lane:
    """Slots that step together.

    Args:
        model: A causal language model that `enable_slots` found ready.
        n_slots: Sequences at once.
        sampling: How tokens are drawn.
        stop_ids: Tokens that end a response.
        padded: Whether attention reads all slots at once, as on accelerators.
    """

    def __init__(
        self,
        model: Any,
        *,
        n_slots: int,
        sampling: Sampling,
        stop_ids: frozenset[int],
        padded: bool,
    ) -> None:
        self._model, self._sampling = model, sampling
        self._stop_ids, self._padded = stop_ids, padded
        self._cache = SlotCache(n_slots)
        self._slots: list[_Sequence | None] = [None] * n_slots

    @property
    def n_free(self) -> int:
        """Slots without a sequence."""
        return self._slots.count(None)

    @property
    def n_busy(self) -> int:
        """Slots with one."""
        return len(self._slots) - self.n_free

    @torch.inference_mode()
    def advance(self, jobs: Sequence[Job]) -> list[Written]:
        """Takes jobs in, then steps until a sequence ends, or a few times.

        Args:
            jobs: At most as many as there are free slots.

        Returns:
            What ended.

        Raises:
            DataError: If the memory does not suffice, or logits are not numbers.
        """
        finished: list[Written] = []
        try:
            for job in jobs:
                finished += self._begin(job)
            for _ in range(STEPS):
                if finished or not self.n_busy:
                    break
                finished += self._step()
        except torch.OutOfMemoryError as error:
            raise DataError(
                f"{self._model.device} has no memory for {len(self._slots)} sequences of "
                f"{self._cache.capacity} tokens; give a smaller --concurrency or --max-new-tokens"
            ) from error
        return finished

    def _begin(self, job: Job) -> list[Written]:
        slot = self._slots.index(None)
        self._cache.reserve(len(job.ids) + 1)
        logits = prompt_logits(self._model, job.ids, cache=self._cache, slot=slot)
        draws = np.random.Generator(np.random.Philox(job.seed))
        first = likeliest(logits[0], n=self._sampling.alternatives)
        self._slots[slot] = _Sequence(job, draws, first=first)
        return self._write([slot], logits)

    def _step(self) -> list[Written]:
        """One token more for every sequence."""
        lengths = [0 if one is None else one.length for one in self._slots]
        last = [0 if one is None else one.ids[-1] for one in self._slots]
        self._cache.reserve(max(lengths))
        logits = step_logits(
            self._model, last, cache=self._cache, lengths=lengths, padded=self._padded
        )
        busy = [slot for slot, one in enumerate(self._slots) if one is not None]
        return self._write(busy, logits if len(busy) == len(lengths) else logits[busy])

    def _write(self, slots: list[int], logits: Tensor) -> list[Written]:
        """Draws the next token of these slots, and empties those that are at their end."""
        how, finished = self._sampling, []
        sequences = [one for slot in slots if (one := self._slots[slot]) is not None]
        drawn = draw_tokens(
            logits,
            temperature=how.temperature,
            top_p=how.top_p,
            uniforms=[one.draws.random() for one in sequences] if how.temperature else (),
        )
        for slot, one, token in zip(slots, sequences, drawn, strict=True):
            stopped = token in self._stop_ids
            if not stopped:
                one.ids.append(token)
            if stopped or len(one.ids) == how.max_new_tokens:
                finished.append(Written(one.job, tuple(one.ids), stopped, one.first))
                self._slots[slot] = None
        return finished


def run_lanes(lanes: Sequence[Lane], jobs: Iterator[Job]) -> Iterator[list[Written]]:
    """Jobs done by lanes side by side, each on one thread.

    Jobs are taken from their iterator, in this thread, as slots come free.

    Args:
        lanes: At least one.
        jobs: What is to be written.

    Yields:
        What ended, as it ends.

    Raises:
        DataError: If the memory does not suffice, or logits are not numbers.

    Example:
        >>> list(run_lanes([], iter([])))
        []
    """
    idle, running = list(lanes), dict[Future[list[Written]], Lane]()
    ended: list[Written] = []
    with _threads(len(lanes)) as pool:
        while True:
            for lane, own in _deal(idle, jobs):
                if own or lane.n_busy:
                    running[pool.submit(lane.advance, own)] = lane
                    idle.remove(lane)
            if ended:  # the lanes are at work again while the caller is
                yield ended
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            ended = [one for future in done for one in future.result()]
            idle += [running.pop(future) for future in done]


def _deal(idle: Sequence[Lane], jobs: Iterator[Job]) -> list[tuple[Lane, list[Job]]]:
    """Jobs for the free slots of idle lanes, one at a time to the lane that has most of them."""
    dealt: list[tuple[Lane, list[Job]]] = [(lane, []) for lane in idle]
    while dealt:
        lane, own = max(dealt, key=lambda pair: pair[0].n_free - len(pair[1]))
        job = next(jobs, None) if lane.n_free > len(own) else None
        if job is None:
            break
        own.append(job)
    return dealt


@contextmanager
def _threads(n: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose every thread computes by itself, as in `charm_rm.models.packing.core_each`."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(max(n, 1), initializer=torch.set_num_threads, initargs=(1,))
    try:
        with pool:
            yield pool
    finally:
        torch.set_num_threads(before)
