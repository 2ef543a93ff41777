"""Reward models side by side: the single commands as the oracle, gates, and refusals."""

from importlib.resources import files

import numpy as np
import polars as pl
import pytest
from benchmark_builders import group_items
from benchmark_builders import make_scores as make_item_scores
from builders import MINI, SIMPO, make_scores

from charm_rm.audit import audit_scores
from charm_rm.benchmarks.battles import fight_battles
from charm_rm.benchmarks.comparison import compare_scores
from charm_rm.benchmarks.evaluation import evaluate_scores
from charm_rm.benchmarks.model_table import ModelScores, ModelTable, compare_models
from charm_rm.benchmarks.reward_bench import REWARD_BENCH
from charm_rm.benchmarks.rm_bench import RM_BENCH
from charm_rm.data.arena import read_elo
from charm_rm.data.scores import read_scores
from charm_rm.data.tables import DataError

ELO = read_elo("table7")
CHAT = group_items({"chat": 40}, 3, 3)
PAIR = {"elo": ELO, "over_valued": SIMPO, "reference": MINI}


def tabulate(*models: ModelScores, **options: object) -> ModelTable:
    settings: dict[str, object] = {"benchmarks": [RM_BENCH, REWARD_BENCH], "n_resamples": 300}
    return compare_models(models, **(settings | options))  # type: ignore[arg-type]


def test_every_figure_is_that_of_the_command_for_it_alone() -> None:
    first, second = make_scores(), make_scores(boost=1.0, seed=1)
    items = [make_item_scores(CHAT, seed=seed) for seed in (0, 1)]
    table = tabulate(
        ModelScores("a", first, {"rm-bench": items[0]}),
        ModelScores("b", second, {"rm-bench": items[1]}),
        **PAIR,
    )
    degrees = [
        {p.policy: p.mismatch_degree for p in audit_scores(s, ELO, reference=MINI).policies}
        for s in (first, second)
    ]
    pair, others = table.row("mismatch"), table.row("mismatch/others")
    for cell, degree in zip(pair.cells, degrees, strict=True):
        assert cell is not None
        assert cell.value == degree[SIMPO]
    for cell, degree in zip(others.cells, degrees, strict=True):
        assert cell is not None
        mean = np.mean([degree[policy] for policy in degree if policy not in (SIMPO, MINI)])
        assert cell.value == pytest.approx(mean)
    battles = fight_battles(
        first, ELO, opponents=[MINI], after=second, seen=[SIMPO], n_resamples=300
    )
    for row, name in ((pair, "seen"), (others, "unseen")):
        summary, change = battles.battlefields[0].summaries[name], row.changes[1]
        assert change is not None
        assert change.low == pytest.approx(summary.change_low)
        assert change.high == pytest.approx(summary.change_high)
        assert change.difference == pytest.approx(summary.change)

    row = table.row("rm-bench/chat/hard")
    for cell, scores in zip(row.cells, items, strict=True):
        figure = evaluate_scores(scores, RM_BENCH, n_resamples=300).figure("chat", "hard")
        assert cell is not None
        assert (cell.value, cell.low, cell.high) == (figure.value, figure.low, figure.high)
    compared = compare_scores(items[1], items[0], benchmark=RM_BENCH, n_resamples=300)
    gap = next(d for d in compared.differences if (d.part, d.measure) == ("chat", "hard"))
    change = row.changes[1]
    assert change is not None
    assert (change.difference, change.p_value) == (gap.difference, gap.p_value)


def test_a_cured_pair_is_better_and_the_way_back_is_worse() -> None:
    before, after = make_scores(boost=4.0), make_scores(boost=0.0)
    there = tabulate(ModelScores("a", before), ModelScores("b", after), **PAIR).row("mismatch")
    back = tabulate(ModelScores("a", after), ModelScores("b", before), **PAIR).row("mismatch")
    assert (there.lower_is_better, there.changes[0]) == (True, None)
    assert there.changes[1] is not None
    assert back.changes[1] is not None
    assert (there.changes[1].verdict, back.changes[1].verdict) == ("better", "worse")
    assert there.changes[1].difference == -back.changes[1].difference


def test_equal_models_differ_in_nothing_shown() -> None:
    scores, items = make_scores(), {"rm-bench": make_item_scores(CHAT)}
    table = tabulate(ModelScores("a", scores, items), ModelScores("b", scores, items), **PAIR)
    for row in table.rows:
        assert row.changes[1] is not None
        assert (row.changes[1].difference, row.changes[1].verdict) == (0.0, "not shown")


def test_what_a_model_lacks_is_left_empty_and_the_rest_is_compared() -> None:
    items = {"rm-bench": make_item_scores(CHAT)}
    pairs = {"reward-bench": make_item_scores(group_items({"llmbar-natural": 30}, 1, 1))}
    table = tabulate(ModelScores("a", None, items), ModelScores("b", None, items | pairs), elo=None)
    row = table.row("reward-bench/llmbar-natural")
    assert row.cells[0] is None
    assert row.cells[1] is not None
    assert row.changes == (None, None)
    assert table.reference is None
    assert table.row("rm-bench/chat").changes[1] is not None


def test_a_part_of_a_section_has_the_key_of_the_section() -> None:
    counts = {"llmbar-natural": 20, "llmbar-adver-manual": 20}
    pairs = {"reward-bench": make_item_scores(group_items(counts, 1, 1))}
    table = tabulate(ModelScores("a", None, pairs), ModelScores("b", None, pairs))
    row = table.row("reward-bench/chat-hard")
    assert row.title == "RewardBench Chat Hard (2 of 6 subsets), accuracy"
    with pytest.raises(DataError, match="reward-bench/chat-hard"):
        table.row("reward-bench/chat-hardd")


def test_the_pair_is_the_one_that_an_audit_of_the_first_model_suggests() -> None:
    demo = files("charm_rm.data") / "snapshots" / "demo_scores.parquet"
    scores = read_scores([str(demo)])
    table = tabulate(
        ModelScores("a", scores), ModelScores("b", scores), elo=ELO, reference=MINI, n_resamples=2
    )
    assert (table.over_valued, table.reference) == (SIMPO, MINI)


def test_what_cannot_be_compared_is_refused_in_one_line() -> None:
    scores = make_scores()
    twice = ModelScores("a", scores), ModelScores("b", scores)
    with pytest.raises(ValueError, match="at least two"):
        tabulate(ModelScores("a", scores), **PAIR)
    with pytest.raises(DataError, match="called 'a'"):
        tabulate(ModelScores("a", scores), ModelScores("a", scores), **PAIR)
    with pytest.raises(DataError, match="no two of a, b"):
        tabulate(ModelScores("a", scores), ModelScores("b"), **PAIR)
    with pytest.raises(DataError, match="must score the same responses"):
        tabulate(ModelScores("a", scores), ModelScores("b", scores[1:]), **PAIR)
    with pytest.raises(DataError, match="against itself"):
        tabulate(
            ModelScores("a", scores), ModelScores("b", scores), **(PAIR | {"over_valued": MINI})
        )
    with pytest.raises(DataError, match="nearest"):
        tabulate(
            ModelScores("a", scores), ModelScores("b", scores), **(PAIR | {"reference": "gpt"})
        )
    with pytest.raises(ValueError, match="need ratings"):
        tabulate(*twice)
    below = scores.with_columns(pl.lit(0.0).alias("score"))
    flat = {"elo": ELO, "reference": "vicuna-7b"}
    with pytest.raises(DataError, match="no policy lies above"):
        tabulate(ModelScores("a", below), ModelScores("b", below), **flat)
