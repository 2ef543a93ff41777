"""RewardBench 2: the best of four, and Ties, by hand and by a twin that loops."""

import math

import numpy as np
import polars as pl
import pytest
from benchmark_builders import as_dict, group_items, make_scores

from charm_rm.benchmarks.evaluation import Evaluation, evaluate_scores
from charm_rm.benchmarks.items import make_items
from charm_rm.benchmarks.reward_bench_2 import COUNTS, REWARD_BENCH_2, TIES_WEIGHTS
from charm_rm.data.tables import DataError

FOUR = [subset for subset in COUNTS if subset != "Ties"]


def evaluate(scores: pl.DataFrame) -> Evaluation:
    return evaluate_scores(scores, REWARD_BENCH_2, n_resamples=20)


def table(items: dict[str, tuple[list[float], list[float]]]) -> pl.DataFrame:
    rows = [
        (item, f"{side}_{at}", 0, score, "rm")
        for item, sides in items.items()
        for side, scores in zip(("chosen", "rejected"), sides, strict=True)
        for at, score in enumerate(scores, start=1)
    ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model"]
    return pl.DataFrame(rows, schema=names, orient="row")


@pytest.mark.parametrize(
    ("chosen", "rejected", "score"),
    [
        (3.0, [1.0, 2.0, 0.0], 1.0),
        (2.0, [1.0, 2.0, 0.0], 1 / 2),
        (2.0, [2.0, 2.0, 2.0], 1 / 4),
        (1.0, [2.0, 2.0, 0.0], 0.0),
    ],
)
def test_a_shared_maximum_counts_its_share(
    chosen: float, rejected: list[float], score: float
) -> None:
    assert evaluate(table({"Math/1": ([chosen], rejected)})).figures[0].value == score


def test_ties_worked_by_hand() -> None:
    # tied: spread 1, gap 2; ref: gap 0.5. Accurate both; 2 > 1, but min(2, 0.5) < 1.
    found = evaluate(table({"Ties/tied:4": ([5.0, 4.0], [2.0]), "Ties/ref:4": ([1.0], [0.5])}))
    values = {figure.measure: figure.value for figure in found.figures}
    assert values["tied accuracy"] == values["reference accuracy"] == 1.0
    assert values["correctness preferred"] == 1.0
    assert values["correctness preferred hard"] == 0.0
    assert values["margin"] == pytest.approx(math.tanh(0.5 / 1.0 - 1.0))
    assert values["score"] == pytest.approx(0.3 + 0.3 + 0.2 + 0.01 * math.tanh(-0.5))


def test_no_spread_and_no_gap_is_a_margin_of_zero() -> None:
    found = evaluate(table({"Ties/tied:1": ([1.0, 1.0], [1.0]), "Ties/ref:1": ([1.0], [1.0])}))
    assert found.figure("Ties", "margin").value == 0.0
    assert found.figure("Ties", "score").value == 0.0


def test_a_prompt_without_its_partner_counts_for_its_own_accuracy_alone() -> None:
    pair = {"Ties/tied:1": ([5.0, 4.0], [6.0]), "Ties/ref:1": ([1.0], [0.5])}
    found = evaluate(table(pair | {"Ties/ref:2": ([1.0], [3.0])}))
    assert found.figure("Ties", "reference accuracy").value == 0.5
    assert found.figure("Ties", "tied accuracy").value == 0.0
    alone = evaluate(table({"Ties/ref:2": ([1.0], [3.0]), "Ties/ref:3": ([1.0], [3.0])}))
    assert [figure.measure for figure in alone.figures] == ["reference accuracy"]


@pytest.mark.parametrize("seed", range(5))
def test_random_scores_give_what_a_plain_loop_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = group_items(dict.fromkeys(FOUR, 7), 1, 3)
    for pair in range(9):
        items += [(f"Ties/tied:{pair}", int(rng.integers(2, 5)), 4), (f"Ties/ref:{pair}", 1, 3)]
    scores = make_scores(items, seed=seed)
    by_place, found = as_dict(scores), evaluate(scores)
    subsets = []
    for subset in FOUR:
        total = 0.0
        for item, _, _ in items:
            if item.startswith(f"{subset}/"):
                all_four = [by_place[item, "chosen_1"]]
                all_four += [by_place[item, f"rejected_{at}"] for at in (1, 2, 3)]
                best = [at for at, score in enumerate(all_four) if score == max(all_four)]
                total += 1 / len(best) if 0 in best else 0.0
        subsets.append(total / 7)
        assert found.figure(subset, "score").value == pytest.approx(subsets[-1])
    terms = np.zeros((9, 5))
    for pair in range(9):
        gaps, spread = {}, 0.0
        for kind in ("tied", "ref"):
            item, n_right, n_wrong = next(i for i in items if i[0] == f"Ties/{kind}:{pair}")
            right = sorted(by_place[item, f"chosen_{at + 1}"] for at in range(n_right))
            wrong = sorted(by_place[item, f"rejected_{at + 1}"] for at in range(n_wrong))
            gaps[kind] = right[0] - wrong[-1]
            if kind == "tied":
                spread = right[-1] - right[0]
        least = min(gaps["tied"], gaps["ref"])
        terms[pair] = [
            gaps["tied"] > 0,
            gaps["ref"] > 0,
            gaps["tied"] > spread,
            least > spread,
            math.tanh(least / spread - 1) if spread else (math.copysign(1, least) if least else 0),
        ]
    subsets.append(float(terms.mean(axis=0) @ [0.30, 0.30, 0.20, 0.20, 0.01]))
    assert found.figure("Ties", "score").value == pytest.approx(subsets[-1])
    assert found.figure("overall", "score").value == pytest.approx(np.mean(subsets))


def test_the_counts_and_weights_are_the_published_ones() -> None:
    assert sum(COUNTS.values()) == 1865
    assert sum(TIES_WEIGHTS.values()) == pytest.approx(1.01)


def test_ids_and_shapes_that_are_not_of_this_benchmark_are_refused() -> None:
    with pytest.raises(DataError, match="ids in Ties are like 'tied:1'"):
        evaluate(table({"Ties/7": ([1.0], [0.0])}))
    with pytest.raises(DataError, match="has 1 chosen and 2 rejected"):
        evaluate(table({"Math/1": ([1.0], [0.0, 1.0])}))


def test_rows_of_the_original_data_set_become_items() -> None:
    row = {"id": ["tied:1"], "prompt": ["Name a colour"], "subset": ["Ties"]}
    raw = pl.DataFrame(row | {"chosen": [["red", "blue"]], "rejected": [["seven", "cat", "if"]]})
    items = make_items({"": raw}, group_of=REWARD_BENCH_2.group_of, groups=tuple(COUNTS))
    assert items["prompt_id"].unique().to_list() == ["Ties/tied:1"]
    assert items["policy"].to_list()[:3] == ["chosen_1", "chosen_2", "rejected_1"]
