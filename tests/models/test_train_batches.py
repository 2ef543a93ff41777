"""Plans of training steps: every pair once, the same pairs for any number of processes."""

from typing import Any

import numpy as np
import pytest

from charm_rm.models.train_batches import MicroBatches, StepPlan, collate_pairs, plan_steps


def test_a_plan_holds_every_pair_once_in_each_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=(101, 2))
    for padded in (False, True):
        for n_processes, tokens in ((1, 150), (3, 150), (2, 4_000), (4, 1)):
            _check_plan(lengths, padded=padded, n_processes=n_processes, tokens=tokens)


def _check_plan(lengths: Any, *, padded: bool, n_processes: int, tokens: int) -> None:
    how: dict[str, Any] = {"batch": 16, "seed": 3, "padded": padded, "tokens": tokens}
    plan = plan_steps(lengths, n_processes=n_processes, n_epochs=2, **how)
    alone = plan_steps(lengths, n_epochs=2, **how)
    for epoch in range(2):
        steps = plan.steps(epoch)
        assert steps == alone.steps(epoch)  # the same pairs, however many processes
        assert sorted(row for rows in steps for row in rows) == list(range(101))
        assert {len(rows) for rows in steps} == {14, 15}
        for rows in steps:
            _check_step(plan, rows, lengths, n_processes)
    samplers = [MicroBatches(plan, process=process) for process in range(n_processes)]
    assert {len(list(sampler)) for sampler in samplers} == {len(samplers[0])}
    assert plan.steps(0) != plan.steps(1)


def _check_step(plan: StepPlan, rows: list[int], lengths: Any, n_processes: int) -> None:
    parts = plan.micro_batches(rows)
    assert [len(part) for part in parts] == [plan.n_micro] * n_processes
    groups = [group for part in parts for group in part]
    assert sorted(row for group in groups for row in group) == sorted(rows)
    for group in groups:
        cost = lengths[group].max() * 2 * len(group) if plan.padded else lengths[group].sum()
        at_cap = plan.n_micro == 14 // n_processes  # some process would be left without a pair
        assert cost <= plan.tokens or len(group) == 1 or at_cap


def test_fewer_pairs_than_a_batch_or_than_processes_are_refused() -> None:
    lengths = np.full((5, 2), 4)
    how: dict[str, Any] = {"seed": 0, "padded": False, "tokens": 100}
    with pytest.raises(ValueError, match="5 pairs are fewer than a batch of 6; give more pairs"):
        plan_steps(lengths, batch=6, **how)
    with pytest.raises(ValueError, match="a step of 2 pairs is too small for 4 processes"):
        plan_steps(lengths, batch=3, n_processes=4, **how)


def test_a_padded_micro_batch_reads_each_conversation_at_its_last_token() -> None:
    rows = [{"chosen_ids": [5, 6, 7], "rejected_ids": [8], "margin": 0.5}]
    batch = collate_pairs(rows, packed=False)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["places"].tolist() == [[0, 2], [1, 0]]
    assert (batch["margin"].tolist(), batch["n_tokens"].tolist()) == ([0.5], [4])


def test_a_packed_micro_batch_reads_each_conversation_at_its_last_token() -> None:
    rows = [
        {"chosen_ids": [5, 6, 7], "rejected_ids": [8]},
        {"chosen_ids": [9], "rejected_ids": [3]},
    ]
    batch = collate_pairs(rows, packed=True)
    [ids], places = batch["input_ids"].tolist(), batch["places"].tolist()
    assert [ids[column] for _, column in places] == [7, 9, 8, 3]  # chosen first, then rejected
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 0]]
