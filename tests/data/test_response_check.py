"""Counts over responses: worked by hand, and looked at on real ones."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.lengths import length_percentiles
from charm_rm.data.response_check import check_responses, refusal_pattern
from charm_rm.data.response_sources import import_responses
from charm_rm.data.tables import DataError

ROWS = pl.DataFrame(
    [
        ("p", "a", "Yes.", "stop", None),
        ("q", "a", "Yes.", "length", "Hm."),
        ("r", "a", " \n", "stop", None),
        ("p", "b", "I can't assist with that.", "stop", None),
        ("q", "b", "No.", "stop", None),
    ],
    schema=["prompt_id", "policy", "response", "finish_reason", "reasoning"],
    orient="row",
)


def test_counts_are_those_worked_by_hand() -> None:
    check = check_responses(ROWS)
    a, b = check.policies
    assert (check.n_prompts, check.n_complete) == (3, 2)
    assert (a.policy, a.n_responses, a.n_missing, a.coverage) == ("a", 3, 0, 1.0)
    assert (a.n_empty, a.n_duplicates, a.n_refusals, a.n_cut, a.n_reasoning) == (1, 1, 0, 1, 1)
    assert (b.n_prompts, b.n_missing, b.coverage) == (2, 1, 2 / 3)
    assert b.refusals == {"I cannot help": 1}
    assert (a.chars["p50"], b.chars["p5"], b.chars["p100"]) == (4, 3, 25)


def test_coverage_is_of_the_prompts_that_were_asked() -> None:
    prompts = pl.DataFrame({"prompt_id": list("pqrs")})
    check = check_responses(ROWS, prompts=prompts)
    assert [one.coverage for one in check.policies] == [0.75, 0.5]
    with pytest.raises(DataError, match=r"prompt 'r' is not among the prompts \(1 are not\)"):
        check_responses(ROWS, prompts=prompts.filter(pl.col("prompt_id") != "r"))


@pytest.mark.parametrize(
    ("response", "pattern"),
    [
        ("I'm sorry, but I can't assist with that.", "sorry, but I cannot"),
        ("**I\u2019m really sorry, I am unable to do this.**", "sorry, but I cannot"),
        ("I apologize, but as an AI language model, I cannot.", "sorry, but I cannot"),
        ("I cannot provide guidance on tax fraud.", "I cannot help"),
        ("As an AI, I\u2019m not able to\nrecommend this.", "I cannot help"),
        ("I do not feel comfortable writing that.", "I do not feel comfortable"),
        ("I'm sorry to hear that you can't sleep.", None),
        ("I can't provide medical advice, but I can explain.", None),
        ("I'm sorry, but I cannot browse. However, here is a guide:", None),
        ("As an AI language model, I don't have opinions.", None),
        ("I cannot help the way I feel", None),
        ("Banks cannot use it. I cannot assist with that.", None),
        ("", None),
    ],
)
def test_a_refusal_is_known_by_its_beginning(response: str, pattern: str | None) -> None:
    assert refusal_pattern(response) == pattern


@given(st.lists(st.text(max_size=8), min_size=1), st.sampled_from([5, 25, 50, 75, 95, 100]))
def test_a_percentile_is_the_smallest_length_with_that_share(texts: list[str], p: int) -> None:
    lengths = sorted(len(text) for text in texts)
    reached = [n for n in lengths if 100 * sum(m <= n for m in lengths) >= p * len(lengths)]
    assert length_percentiles(pl.Series(texts, dtype=pl.String))[f"p{p}"] == reached[0]


def test_no_texts_have_no_percentiles() -> None:
    assert length_percentiles(pl.Series([], dtype=pl.String)) == {}


def test_the_empty_outputs_of_alpaca_eval_are_found(shared: Path) -> None:
    found = import_responses([shared / "data/alpaca_eval/outputs.parquet"])
    check = check_responses(found.frame)
    empty = {one.policy: one.n_empty for one in check.policies if one.n_empty}
    assert empty == {"gemini-pro": 1, "gemma-2b-it": 22}
    assert (check.n_prompts, check.n_complete) == (
        805,
        782,
    )  # 805 less the 23 empty ones, which differ in their prompts
    assert all(one.n_refusals < 20 for one in check.policies)
