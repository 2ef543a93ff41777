"""Benchmark items: read, chosen, scored, and refused in one line."""

from pathlib import Path

import polars as pl
import pytest
from benchmark_builders import by_length, make_scores

from charm_rm.benchmarks.items import (
    choose_items,
    make_items,
    read_items,
    score_items,
    sides_by_group,
)
from charm_rm.data.prompts import as_messages, prompt_digest
from charm_rm.data.tables import DataError


def raw(n: int = 10, **columns: object) -> pl.DataFrame:
    table = {"id": range(n), "prompt": [f"p{at}" for at in range(n)]}
    table |= {"chosen": ["good"] * n, "rejected": ["bad"] * n, "group": ["a", "b"] * (n // 2)}
    return pl.DataFrame(table | columns)


def items_of(table: pl.DataFrame) -> pl.DataFrame:
    return make_items(
        {"items": table}, group_of=lambda row, _: str(row["group"]), groups=("a", "b")
    )


def test_a_sample_is_drawn_from_each_group_by_id_and_not_by_position() -> None:
    drawn = choose_items(items_of(raw()), n_per_group=2, seed=3)
    assert drawn.group_by("category").len().sort("category").rows() == [("a", 4), ("b", 4)]
    again = choose_items(items_of(raw().reverse()), n_per_group=2, seed=3)
    assert set(again["prompt_id"]) == set(drawn["prompt_id"])
    samples = {
        tuple(choose_items(items_of(raw()), n_per_group=2, seed=s)["prompt_id"]) for s in range(9)
    }
    assert len(samples) > 1


def test_some_groups_alone_can_be_chosen() -> None:
    assert set(choose_items(items_of(raw()), only=["b"])["category"]) == {"b"}
    with pytest.raises(DataError, match="no group 'c'"):
        choose_items(items_of(raw()), only=["c"])
    with pytest.raises(ValueError, match="n_per_group is 0"):
        choose_items(items_of(raw()), n_per_group=0)


def test_an_item_without_an_id_gets_the_digest_of_its_prompt() -> None:
    items = items_of(raw(2).drop("id"))
    assert items["prompt_id"][0] == f"a/{prompt_digest(as_messages('p0'))}"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (raw(2).drop("chosen"), "no column 'chosen'"),
        (raw(2).with_columns(group=pl.lit("c")), "items: row 1: no group 'c'"),
        (raw(2).with_columns(id=pl.lit(1), group=pl.lit("a")), "row 2: item 'a/1' stands twice"),
        (raw(2).with_columns(chosen=pl.lit(None)), "row 1: chosen is None"),
        (raw(2).with_columns(rejected=pl.Series([[], []], dtype=pl.List(pl.String))), "is \\[\\]"),
        (raw(2).with_columns(prompt=pl.lit(None)), "row 1: prompt is None"),
        (raw(2).clear(), "no rows"),
    ],
)
def test_what_is_no_item_is_refused_with_its_row(table: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        items_of(table)


def test_the_python_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    code = page.read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    texts = [["a", "aaa", "aaaaa"]] * 3
    rows = {"id": [1, 2, 3], "domain": ["chat"] * 3, "prompt": ["Hi"] * 3}
    pl.DataFrame(rows | {"chosen": texts, "rejected": texts}).write_parquet("chat.parquet")
    exec(code, {"my_reward_model": by_length})
    assert "measure='hard', value=0.0, low=0.0, high=0.0, n_items=3" in capsys.readouterr().out


def test_no_file_is_refused() -> None:
    with pytest.raises(DataError, match="no benchmark data given"):
        read_items([], group_of=lambda *_: "a", groups=("a",))
    with pytest.raises(DataError, match="no such file"):
        read_items([Path("absent.json")], group_of=lambda *_: "a", groups=("a",))


def test_a_reward_model_must_give_one_finite_score_each() -> None:
    items = items_of(raw(2))
    assert score_items(items, by_length)["score"].to_list() == [4.0, 3.0] * 2
    with pytest.raises(ValueError, match=r"shape \(1,\), 0 of them not finite, for 4"):
        score_items(items, lambda _: [1.0])
    with pytest.raises(ValueError, match="1 of them not finite"):
        score_items(items, lambda _: [1.0, 2.0, float("nan"), 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_id": "7"}, "no benchmark item; ids are like 'chat/8'"),
        ({"policy": "vicuna-7b"}, "policy 'vicuna-7b' is no benchmark item"),
        ({"prompt_id": "c/0"}, "no group 'c'"),
        ({"policy": "chosen_2"}, "item 'a/0' has no chosen_1"),
    ],
)
def test_scores_of_something_else_are_refused(change: dict[str, str], message: str) -> None:
    scores = make_scores([("a/0", 1, 0)]).with_columns(
        pl.lit(v).alias(k) for k, v in change.items()
    )
    with pytest.raises(DataError, match=message):
        sides_by_group(scores, groups=("a", "b"))


def test_a_response_that_was_not_scored_is_named() -> None:
    scores = make_scores([("a/0", 3, 3)]).filter(pl.col("policy") != "rejected_2")
    with pytest.raises(DataError, match="item 'a/0' has no rejected_2"):
        sides_by_group(scores, groups=("a",))
    two = make_scores([("a/0", 1, 1)])
    several = pl.concat([two, two.with_columns(sample=pl.lit(1, pl.Int64))])
    with pytest.raises(DataError, match="several samples"):
        sides_by_group(several, groups=("a",))
