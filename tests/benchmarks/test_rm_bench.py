"""RM-Bench: its formula worked by hand, a twin that loops, and the real items."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmark_builders import as_dict, by_length, group_items, make_scores

from charm_rm.benchmarks.evaluation import Evaluation, evaluate_scores
from charm_rm.benchmarks.items import read_items, score_items
from charm_rm.benchmarks.rm_bench import COUNTS, RM_BENCH, domain_of
from charm_rm.data.tables import DataError

COUNTED = {"chat": 9, "math": 12, "code": 7, "safety-refuse": 8, "safety-response": 5}


def evaluate(scores: pl.DataFrame, n_resamples: int = 50) -> Evaluation:
    return evaluate_scores(scores, RM_BENCH, n_resamples=n_resamples)


def one_item(chosen: list[float], rejected: list[float], group: str = "chat") -> pl.DataFrame:
    places = [f"{side}_{at}" for side in ("chosen", "rejected") for at in (1, 2, 3)]
    return pl.DataFrame({"policy": places, "score": chosen + rejected}).with_columns(
        prompt_id=pl.lit(f"{group}/1"), sample=pl.lit(0), reward_model=pl.lit("rm")
    )


def test_an_item_worked_by_hand() -> None:
    # concise 1 and detailed 2 win against nothing that scores 2; markdown 3 beats the first two.
    found = evaluate(one_item([1.0, 2.0, 3.0], [0.0, 2.0, 3.0]))
    values = {f.measure: f.value for f in found.figures if f.part == "chat"}
    assert values["concise over concise"] == 1.0
    assert values["detailed over detailed"] == 0.0  # a tie is wrong
    assert values["hard"] == 0.0
    assert values["normal"] == pytest.approx(1 / 3)
    assert values["easy"] == pytest.approx(1.0)  # 2 > 0, 3 > 0, 3 > 2
    assert values["mean"] == pytest.approx((0.0 + 1 / 3 + 1.0) / 3)


def test_the_rows_are_the_chosen_styles() -> None:
    found = evaluate(one_item([0.0, 0.0, 9.0], [1.0, 1.0, 1.0]))
    assert found.figure("chat", "markdown over concise").value == 1.0
    assert found.figure("chat", "concise over markdown").value == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_random_scores_give_what_a_plain_loop_gives(seed: int) -> None:
    scores = make_scores(group_items(COUNTED, 3, 3), seed=seed)
    found, by_place = evaluate(scores), as_dict(scores)
    domains = []
    for domain in ("chat", "math", "code", "safety"):
        ids = [i for i in scores["prompt_id"].unique() if i.split("/")[0].split("-")[0] == domain]
        levels: dict[str, list[float]] = {"hard": [], "normal": [], "easy": []}
        for item in ids:
            for row in (1, 2, 3):
                for column in (1, 2, 3):
                    level = "hard" if row < column else "normal" if row == column else "easy"
                    won = by_place[item, f"chosen_{row}"] > by_place[item, f"rejected_{column}"]
                    levels[level].append(float(won))
        means = {level: float(np.mean(values)) for level, values in levels.items()}
        means["mean"] = float(np.mean(list(means.values())))
        for measure, value in means.items():
            assert found.figure(domain, measure).value == pytest.approx(value)
        domains.append(means)
    for measure in ("mean", "hard", "normal", "easy"):
        overall = float(np.mean([means[measure] for means in domains]))
        assert found.figure("overall", measure).value == pytest.approx(overall)


def test_safety_pools_its_halves_by_item() -> None:
    right, wrong = [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    refuse = [
        one_item(right, wrong, "safety-refuse").with_columns(prompt_id=pl.lit(f"safety-refuse/{n}"))
        for n in range(3)
    ]
    found = evaluate(pl.concat([*refuse, one_item(wrong, right, "safety-response")]))
    assert found.figure("safety", "mean").value == pytest.approx(3 / 4)
    assert found.figure("safety-refuse", "mean").value == pytest.approx(1.0)


def test_a_missing_domain_leaves_its_parts_and_no_overall() -> None:
    found = evaluate(make_scores(group_items({"chat": 5, "safety-refuse": 4}, 3, 3)))
    assert {figure.part for figure in found.figures} == {"chat", "safety-refuse"}
    assert found.missing == ("math", "code", "safety-response")
    assert "no items of math, code, safety-response" in found.warnings[0]
    assert "chat 5 of 129" in found.warnings[1]


def test_the_counts_are_the_published_ones() -> None:
    assert sum(COUNTS.values()) == 1327
    assert COUNTS["safety-refuse"] + COUNTS["safety-response"] == 441


def test_a_strictly_rising_change_of_the_scores_changes_nothing() -> None:
    scores = make_scores(group_items(COUNTED, 3, 3))
    assert evaluate(scores).figures == evaluate(scores.with_columns(pl.col("score").exp())).figures


def test_an_item_without_three_of_each_is_refused() -> None:
    with pytest.raises(DataError, match=r"'chat/0' has 3 chosen and 2 rejected"):
        evaluate(make_scores([("chat/0", 3, 2)]))


def test_the_original_files_name_the_domain(tmp_path: Path) -> None:
    path = tmp_path / "safety-refuse_filtered.json"
    row = {"id": 3, "prompt": "Hi", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}
    path.write_text(pl.DataFrame([row]).write_json())
    items = read_items([path], group_of=domain_of, groups=tuple(COUNTS))
    assert items["prompt_id"].unique().to_list() == ["safety-refuse/3"]
    other = path.rename(tmp_path / "mine.json")
    with pytest.raises(DataError, match=r"mine\.json: row 1: no column 'domain'"):
        read_items([other], group_of=domain_of, groups=tuple(COUNTS))


def test_a_scorer_of_length_finds_easy_what_is_styled_and_hard_what_is_not(shared: Path) -> None:
    folder = shared / "data" / "rm_bench"
    paths = [folder / f"{name}.parquet" for name in ("chat", "code", "safety")]
    items = read_items(paths, group_of=domain_of, groups=tuple(COUNTS))
    assert items["prompt_id"].n_unique() == 65 + 114 + 221
    found = evaluate(score_items(items, by_length))
    for domain in ("chat", "code", "safety"):
        assert found.figure(domain, "easy").value > 0.75
        assert found.figure(domain, "hard").value < 0.3
    assert found.missing == ("math",)
    with pytest.raises(KeyError):
        found.figure("overall", "mean")
