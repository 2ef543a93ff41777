"""Checks that run the model: are its scores numbers, the same each time, the same in any batch?

They score a few conversations of this package (`charm_rm.models.sample_texts`) in the way that
`charm score` would. Differences are given in units of the standard deviation of these scores.
"""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from charm_rm.models.doctor import Case, Check, Finding
from charm_rm.models.sample_texts import sample_conversations
from charm_rm.models.scoring import RewardModel

# Largest difference between a response alone and in company, in standard deviations of the scores.
BOUNDS = MappingProxyType({"float32": 1e-5, "bfloat16": 0.01, "float16": 0.01})
HARMFUL = 0.1  # standard deviations: more than this changes who wins
MEMORY_TOKENS = 1000
GIGABYTE = 1e9


def _check_scores(case: Case) -> Finding | None:
    """Whether the scores are numbers, and not all the same."""
    if case.model is None:
        return _not_measured("scores")
    scores = _sample_scores(case.model)
    n_bad = int(np.count_nonzero(~np.isfinite(scores)))
    if n_bad:
        figure = f"{n_bad} of {scores.size} sample scores are NaN or infinite in {case.model.dtype}"
        return Finding("scores", "fail", figure, "try --dtype float32, or check the weights")
    figure = (
        f"{scores.min():.3f} to {scores.max():.3f}, standard deviation {scores.std():.3f}, "
        f"on {scores.size} sample texts"
    )
    if scores.std() == 0:
        return Finding("scores", "fail", figure, "the head gives one number: train it")
    return Finding("scores", "pass", figure)


def _check_determinism(case: Case) -> Finding | None:
    """Whether the same input has the same score when it is asked for again."""
    if case.model is None:
        return _not_measured("determinism")
    first, again = _sample_scores(case.model), _sample_scores(case.model)
    gap = _in_deviations(first - again, first)
    if gap == 0:
        return Finding("determinism", "pass", "the same bits when asked twice")
    figure = f"asked twice, scores differ by up to {gap:.2g} of their standard deviation"
    cure = "the model computes at random: turn off dropout, or check the code that comes with it"
    return Finding("determinism", "fail" if gap > HARMFUL else "warn", figure, cure)


def _check_batches(case: Case) -> Finding | None:
    """Whether a response has the same score alone, with others, and in another order."""
    if case.model is None:
        return _not_measured("batches")
    model = case.model
    sequences = _sample_ids(model)
    alone = np.array([model.score_ids([ids])[0] for ids in sequences])
    gaps = [
        _in_deviations(model.score_ids(sequences) - alone, alone),
        _in_deviations(model.score_ids(sequences[::-1])[::-1] - alone, alone),
    ]
    unpadded = "packed" if model.packed and not model.exact else "one at a time"
    way = "in batches" if model.padded and not model.exact else unpadded
    figure = (
        f"alone against together, {way}: up to {max(gaps):.2g} of the standard deviation "
        f"({model.dtype}; bound {BOUNDS[model.dtype]:g})"
    )
    if max(gaps) <= BOUNDS[model.dtype]:
        return Finding("batches", "pass", figure)
    cure = "give --exact, or --dtype float32"
    return Finding("batches", "fail" if max(gaps) > HARMFUL else "warn", figure, cure)


def _check_memory(case: Case) -> Finding | None:
    """Memory of the weights, and of 1,000 tokens more in one forward pass."""
    if case.model is None:
        return _not_measured("memory")
    model = case.model
    n_tokens = min(MEMORY_TOKENS, model.max_length)
    ids = [(_sample_ids(model)[0] * n_tokens)[:n_tokens]]
    measure = _peak_on_gpu if model.device.type == "cuda" else _peak_on_cpu
    per_thousand = measure(lambda: _run(model, ids)) * MEMORY_TOKENS / n_tokens / GIGABYTE
    weights = sum(p.numel() * p.element_size() for p in model.backbone.parameters()) / GIGABYTE
    most = weights + per_thousand * model.max_length / MEMORY_TOKENS
    there = _memory(model.device) / GIGABYTE
    figure = (
        f"{weights:.2f} GB of weights and {per_thousand:.3f} GB per 1,000 tokens: {most:.2f} GB "
        f"for one response of {model.max_length:,} tokens; there are {there:.0f} GB"
    )
    if most > there:
        return Finding("memory", "warn", figure, "give --max-length, or --dtype bfloat16")
    return Finding("memory", "pass", figure)


def _run(model: RewardModel, ids: list[list[int]]) -> None:
    with torch.inference_mode():
        model.backbone(input_ids=torch.tensor(ids, device=model.device), use_cache=False)


def _peak_on_cpu(run: Callable[[], None]) -> int:
    """Most bytes that tensors made by a run take at one time."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # its log lines are not for this reader
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    results = watched.profiler.kineto_results if watched.profiler else None
    events = results.events() if results else []
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak


def _peak_on_gpu(run: Callable[[], None]) -> int:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _memory(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _sample_ids(model: RewardModel) -> list[list[int]]:
    return [ids[: model.max_length] for ids in model.encode(sample_conversations())]


def _sample_scores(model: RewardModel) -> NDArray[np.float64]:
    return model.score_ids(_sample_ids(model))


def _in_deviations(gaps: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """The largest gap in standard deviations of the scores; a gap between equal scores is one."""
    largest = float(np.abs(gaps).max())
    return largest / float(scores.std()) if scores.std() > 0 else float(largest > 0)


def _not_measured(name: str) -> Finding:
    figure = "not measured: the model does not load"
    return Finding(name, "warn", figure, "mend what failed, then look again")


RUN_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "scores": _check_scores,
        "determinism": _check_determinism,
        "batches": _check_batches,
        "memory": _check_memory,
    }
)
