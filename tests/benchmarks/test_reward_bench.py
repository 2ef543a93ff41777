"""RewardBench: weights of the published script, a twin that loops, and the real items."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmark_builders import as_dict, by_length, group_items, make_scores

from charm_rm.benchmarks.evaluation import evaluate_scores
from charm_rm.benchmarks.items import read_items, score_items
from charm_rm.benchmarks.reward_bench import COUNTS, REWARD_BENCH, SECTIONS, subset_of
from charm_rm.data.tables import DataError


def test_the_sections_have_the_published_sizes() -> None:
    sizes = {section: sum(subsets.values()) for section, subsets in SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 984 + 6 * 164}
    assert sum(COUNTS.values()) == 2985


@pytest.mark.parametrize("seed", range(5))
def test_random_scores_give_what_a_plain_loop_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = group_items({subset: int(rng.integers(2, 9)) for subset in COUNTS}, 1, 1)
    scores = make_scores(items, seed=seed)
    by_place = as_dict(scores)
    found = evaluate_scores(scores, REWARD_BENCH, n_resamples=20)
    sections = []
    for section, weights in SECTIONS.items():
        total = 0.0
        for subset, weight in weights.items():
            ids = [item for item, _, _ in items if item.rpartition("/")[0] == subset]
            right = [by_place[i, "chosen_1"] > by_place[i, "rejected_1"] for i in ids]
            assert found.figure(subset, "accuracy").value == pytest.approx(np.mean(right))
            total += weight * float(np.mean(right))
        sections.append(total / sum(weights.values()))
        assert found.figure(section, "accuracy").value == pytest.approx(sections[-1])
    assert found.figure("overall", "accuracy").value == pytest.approx(np.mean(sections))


def test_a_section_worked_by_hand() -> None:
    # Reasoning: all of math-prm right (984 of 1968), of code a half.
    code = [f"hep-{name}" for name in ("cpp", "go", "java", "js", "python", "rust")]
    rows = [("math-prm/0", 1.0)] + [(f"{subset}/{n}", float(n)) for subset in code for n in (0, 1)]
    table = pl.DataFrame(
        [
            (item, place, 0, score if place == "chosen_1" else 0.0, "rm")
            for item, score in rows
            for place in ("chosen_1", "rejected_1")
        ],
        schema=["prompt_id", "policy", "sample", "score", "reward_model"],
        orient="row",
    )
    found = evaluate_scores(table, REWARD_BENCH, n_resamples=20)
    assert found.figure("Reasoning", "accuracy").value == pytest.approx(0.75)
    assert found.figure("math-prm", "accuracy").low is None  # one item has no interval
    assert found.figure("Reasoning", "accuracy").low is None
    assert found.figure("hep-go", "accuracy").low is not None


def test_the_real_chat_hard_items_are_five_of_six_subsets(shared: Path) -> None:
    path = shared / "data" / "reward_bench" / "chat_hard.parquet"
    items = read_items([path], group_of=subset_of, groups=tuple(COUNTS))
    found = evaluate_scores(score_items(items, by_length), REWARD_BENCH, n_resamples=50)
    part = found.figure("Chat Hard (5 of 6 subsets)", "accuracy")
    assert (part.n_items, part.n_published) == (210, 419)
    assert part.value < 0.5  # LLMBar is adversarial: the longer response is mostly the wrong one
    assert "mt-bench-hard" in found.missing
    assert "alpacaeval-hard, mt-bench-easy, mt-bench-med and 13 more" in found.warnings[0]
    assert all(figure.part != "Chat Hard" for figure in found.figures)


def test_a_row_without_a_known_subset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    row = {"id": [1], "prompt": ["Hi"], "chosen": ["a"], "rejected": ["b"]}
    pl.DataFrame(row | {"subset": ["llmbar-natral"]}).write_ndjson(path)
    with pytest.raises(DataError, match="no group 'llmbar-natral'; nearest: llmbar-natural"):
        read_items([path], group_of=subset_of, groups=tuple(COUNTS))
    pl.DataFrame(row).write_ndjson(path)
    with pytest.raises(DataError, match=r"row 1: no 'subset'"):
        read_items([path], group_of=subset_of, groups=tuple(COUNTS))


def test_a_pair_must_be_a_pair() -> None:
    with pytest.raises(DataError, match="has 1 chosen and 2 rejected"):
        evaluate_scores(make_scores([("donotanswer/0", 1, 2)]), REWARD_BENCH)
