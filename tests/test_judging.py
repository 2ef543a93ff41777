"""Verdicts of judges: Table 8, planted position bias, and what scores they become."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.audit import audit_scores
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.data.arena import read_elo
from charm_rm.data.tables import DataError
from charm_rm.judge_formats import FORMATS, ask_judge, read_first_token, read_verdict
from charm_rm.judging import (
    VERDICT_SCHEMA,
    JudgeCounts,
    count_verdicts,
    pair_up,
    score_verdicts,
)

SIMPO, MINI = "gemma-2-9b-it-SimPO", "gpt-4o-mini-2024-07-18"
LETTER = FORMATS["letter"]


def verdicts_of(rows: Sequence[tuple[str, bool, str | None]], policy: str = SIMPO) -> pl.DataFrame:
    """Verdicts from (prompt, whether the policy stands first, what the judge says)."""
    full = [(prompt, 0, policy, MINI, first, said, None) for prompt, first, said in rows]
    return pl.DataFrame(full, schema=VERDICT_SCHEMA, orient="row")


def planted(n_won: int, n_valid: int, n_asked: int = 1000) -> pl.DataFrame:
    """As many verdicts for the policy, the orders taking turns; the rest are ties and noise."""
    rows: list[tuple[str, bool, str | None]] = []
    for at in range(n_asked):
        first = at % 2 == 0
        said: str | None = "first" if (at < n_won) == first else "second"
        if at >= n_valid:
            said = "tie" if at % 3 else None
        rows.append((f"p{at}", first, said))
    return verdicts_of(rows)


def counts_of(table: pl.DataFrame) -> JudgeCounts:
    (found,) = count_verdicts(table, n_resamples=500)
    return found


# Won and valid verdicts of Table 8, and the Mismatch Degree beside them.
TABLE_8 = [
    (499, 999, 0.296),
    (365, 935, 0.143),
    (662, 1000, 0.525),
    (432, 995, 0.204),
    (233, 995, -0.077),
    (213, 996, -0.106),
]


@pytest.mark.parametrize(("won", "valid", "mismatch"), TABLE_8)
def test_the_counts_of_table_8_give_its_mismatch_degrees(
    won: int, valid: int, mismatch: float
) -> None:
    found = counts_of(planted(won, valid))
    assert (found.n_won, found.n_lost) == (won, valid - won)
    assert found.n_tied + found.n_invalid == 1000 - valid
    assert found.win_rate is not None
    assert round(float(signed_mismatch(found.win_rate.value, 0.289)), 3) == mismatch


def test_scores_of_verdicts_audit_to_the_win_rate_of_the_verdicts() -> None:
    table = planted(432, 995)
    audit = audit_scores(score_verdicts(table, judge="j"), read_elo("table7"), reference=MINI)
    entry = next(one for one in audit.policies if one.policy == SIMPO)
    assert entry.n_prompts == 995
    assert entry.hard_win_rate == pytest.approx(432 / 995)
    assert entry.sigmoid_win_rate == pytest.approx(432 / 995, abs=0.001)


def test_the_interval_of_a_win_rate_is_that_of_a_share() -> None:
    share = counts_of(planted(500, 1000)).win_rate
    assert share is not None
    assert share.low == pytest.approx(0.5 - 1.96 * np.sqrt(0.25 / 1000), abs=0.005)
    assert share.high == pytest.approx(0.5 + 1.96 * np.sqrt(0.25 / 1000), abs=0.005)


def test_a_judge_that_always_prefers_the_first_has_that_bias_and_no_taste() -> None:
    both = [(f"p{at}", first, "first") for at in range(50) for first in (True, False)]
    found = counts_of(verdicts_of(both))
    assert found.first_rate is not None
    assert (found.first_rate.value, found.first_rate.low) == (1.0, 1.0)
    assert found.consistency is not None
    assert found.consistency.value == 0.0
    assert found.win_rate is not None
    assert found.win_rate.value == 0.5
    # In scores the two orders cancel: neither answer is ahead.
    assert score_verdicts(verdicts_of(both), judge="j")["score"].abs().max() == 0.0


def test_a_judge_that_keeps_its_word_is_consistent() -> None:
    rows = [
        (f"p{at}", first, "first" if first == (at % 2 == 0) else "second")
        for at in range(40)
        for first in (True, False)
    ]
    found = counts_of(verdicts_of(rows))
    assert found.consistency is not None
    assert (found.consistency.value, found.consistency.n) == (1.0, 40)
    assert found.first_rate is not None
    assert found.first_rate.value == 0.5


def test_a_probability_of_the_first_token_counts_for_what_it_says() -> None:
    rows = [
        ("p1", 0, SIMPO, MINI, True, "first", 0.8),
        ("p1", 0, SIMPO, MINI, False, "second", 0.4),
    ]
    table = pl.DataFrame(rows, schema=VERDICT_SCHEMA, orient="row")
    score = score_verdicts(table, judge="j").filter(pl.col("policy") == SIMPO)["score"][0]
    p = (0.8 + 0.6) / 2
    assert score == pytest.approx(np.log(p / (1 - p)))


def test_nothing_decided_has_no_rate_and_no_score() -> None:
    table = verdicts_of([("p1", True, "tie"), ("p2", False, None)])
    found = counts_of(table)
    assert (found.win_rate, found.first_rate, found.consistency) == (None, None, None)
    with pytest.raises(DataError, match="no verdict"):
        score_verdicts(table, judge="j")
    other = table.with_columns(reference=pl.Series(["a", "b"]))
    with pytest.raises(DataError, match="against 2 references"):
        score_verdicts(other, judge="j")
    one = counts_of(verdicts_of([("p1", True, "first")])).win_rate
    assert one is not None
    assert (one.value, one.low, one.high) == (1.0, None, None)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["first", "second", "tie", None]))))
def test_every_verdict_is_counted_once(said: list[tuple[bool, str | None]]) -> None:
    rows = [(f"p{at}", first, verdict) for at, (first, verdict) in enumerate(said)]
    for found in count_verdicts(verdicts_of(rows), n_resamples=2):
        assert found.n_asked == len(rows)
        assert found.n_won + found.n_lost + found.n_tied + found.n_invalid == len(rows)


def responses(n_prompts: int = 200) -> pl.DataFrame:
    rows = [
        (f"p{at:03d}", [{"role": "user", "content": f"ask {at}"}], policy, 0, f"{policy} {at}")
        for at in range(n_prompts)
        for policy in (SIMPO, MINI, "vicuna-7b")
    ]
    names = ["prompt_id", "prompt", "policy", "sample", "response"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_orders_are_drawn_by_battle_and_seed_alone() -> None:
    table = responses()
    found = list(pair_up(table, reference=MINI, how=LETTER))
    assert len(found) == 400
    assert 0.4 < np.mean([battle.policy_first for battle in found]) < 0.6
    fewer = pair_up(table[::-1], reference=MINI, how=LETTER, policies=[SIMPO])
    assert list(fewer) == [battle for battle in found if battle.policy == SIMPO]
    other = list(pair_up(table, reference=MINI, how=LETTER, seed=1))
    assert [battle.policy_first for battle in other] != [battle.policy_first for battle in found]


def test_both_orders_show_the_same_two_answers() -> None:
    one, two = pair_up(responses(1), reference=MINI, how=LETTER, policies=[SIMPO], order="both")
    assert (one.policy_first, two.policy_first) == (True, False)
    first, second = (battle.messages[1]["content"] for battle in (one, two))
    assert first.index(f"{SIMPO} 0") < first.index(f"{MINI} 0")
    assert second.index(f"{SIMPO} 0") > second.index(f"{MINI} 0")


def test_battles_that_cannot_be_are_refused() -> None:
    table = responses(3)
    with pytest.raises(DataError, match="nearest"):
        next(pair_up(table, reference="gpt-4o-mini", how=LETTER))
    with pytest.raises(DataError, match="can't meet itself"):
        next(pair_up(table, reference=MINI, how=LETTER, policies=[MINI]))
    apart = table.filter((pl.col("policy") == MINI) ^ (pl.col("prompt_id") == "p000"))
    with pytest.raises(DataError, match="answer no prompt both"):
        list(pair_up(apart, reference=MINI, how=LETTER, policies=[SIMPO]))


@pytest.mark.parametrize(
    ("name", "reply", "verdict"),
    [
        ("letter", "A", "first"),
        ("letter", " b", None),
        ("letter", "**B**", "second"),
        ("letter", "The better answer is B.", "second"),
        ("letter", "Verdict: T", "tie"),
        ("letter", "tie", "tie"),
        ("letter", "A or B", None),
        ("letter", "As I see it, B", None),
        ("letter", "", None),
        ("boxed", r"So \boxed{A}. No: \boxed{ B }", "second"),
        ("boxed", r"\boxed{\text{T}}", "tie"),
        ("boxed", "A", None),
        ("boxed", r"\boxed{C}", None),
        ("scale", "[[A>>B]]", "first"),
        ("scale", "First [[A>B]], then [[ B > A ]]", "second"),
        ("scale", "[[A=B]]", "tie"),
        ("scale", "[[A=A]]", None),
        ("scale", "[[A]]", None),
        ("json", '```json\n{"reason": "x", "verdict": "B"}\n```', "second"),
        ("json", '{"verdict": "T"}', "tie"),
        ("json", '{"verdict": ["A"]}', None),
        ("json", '{"verdict": "C"}', None),
        ("json", "{A}", None),
        ("letter", "<think>It must be A.</think>\nB", "second"),
        ("letter", "<think>It must be A.", None),
    ],
)
def test_replies_are_read_as_their_format_says(name: str, reply: str, verdict: Any) -> None:
    assert read_verdict(reply, how=FORMATS[name]) == verdict


@pytest.mark.parametrize(
    ("probabilities", "verdict", "p_first"),
    [
        ({"A": 0.6, "B": 0.2, "T": 0.1}, "first", 0.75),
        ({" A": 0.2, "A": 0.2, "B": 0.3}, "first", 4 / 7),
        ({"T": 0.6, "A": 0.1, "B": 0.3}, "tie", 0.25),
        ({"B": 0.5, "x": 0.1}, "second", 1 / 6),  # A is at most as likely as the last one listed
        ({"A": 0.5}, "first", 0.5),
        ({"T": 0.5, "x": 0.1}, "tie", None),
        ({"I": 0.9, "The": 0.1}, None, None),
    ],
)
def test_the_first_token_is_read_for_its_letter(
    probabilities: dict[str, float], verdict: str | None, p_first: float | None
) -> None:
    logs = {token: float(np.log(p)) for token, p in probabilities.items()}
    found, p = read_first_token(logs)
    assert found == verdict
    assert p == (None if p_first is None else pytest.approx(p_first))


@given(st.text(), st.sampled_from(sorted(FORMATS)))
def test_any_text_is_a_verdict_or_none(text: str, name: str) -> None:
    assert read_verdict(text, how=FORMATS[name]) in ("first", "second", "tie", None)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_judge_that_repeats_the_question_has_given_no_verdict(name: str) -> None:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    asked = ask_judge(turns, "Yo", "Hey", how=FORMATS[name])
    assert "system: Be kind.\n\nuser: Hi" in asked[1]["content"]
    assert read_verdict(asked[1]["content"], how=FORMATS[name]) is None


def test_brackets_without_end_are_no_verdict() -> None:
    assert read_verdict('{"a":' * 100_000 + "}", how=FORMATS["json"]) is None
