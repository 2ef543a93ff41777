"""The ranking by mean score, and win rates of all against all."""

import numpy as np
import polars as pl
import pytest
from builders import MINI, SIMPO, make_scores

from charm_rm.audit import audit_scores
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import apply_offsets
from charm_rm.data.tables import DataError
from charm_rm.standings import rank_policies, win_rate_matrices

ELO = read_elo("table7")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("gemma-2-9b-it-SimPO", "SimPO"),
        ("tulu-2-dpo-70b-ExPO", "dpo"),
        ("SPPO-Mistral7B-PairRM", "SPPO"),
        ("internlm2-chat-20b-ppo", "ppo"),
        ("oasst-rlhf-llama-33b", "rlhf"),
        ("mistral-orpo-beta", "orpo"),
        ("Llama-3-Instruct-8B-WPO-HB-v2", "WPO"),
        ("zephyr-7b-beta", None),
        ("hippo-7b", None),
        ("expose-13b", None),
        ("vicuna-7b", None),
    ],
)
def test_a_name_is_marked_by_whole_words_alone(name: str, word: str | None) -> None:
    found = rank_policies(make_scores(30, policies=(name, MINI)))
    assert {entry.policy: entry.preference_word for entry in found.policies}[name] == word


def test_a_user_adds_words() -> None:
    scores = make_scores(30, policies=("zephyr-7b-beta", MINI))
    found = rank_policies(scores, preference_words=("zephyr",))
    assert [entry.preference_word for entry in found.policies] == ["zephyr", None]
    with pytest.raises(DataError, match="no word to search names for"):
        rank_policies(scores, preference_words=())


def test_the_ranking_is_by_mean_score_and_its_intervals_forget_the_prompts() -> None:
    scores = make_scores(400)  # prompts spread by 5 points, responses by 1
    found = rank_policies(scores)
    means = scores.group_by("policy").agg(pl.col("score").mean()).sort("score", descending=True)
    assert [entry.policy for entry in found.policies] == means["policy"].to_list()
    for entry in found.policies:
        half = (entry.mean_high - entry.mean_low) / 2
        assert half == pytest.approx(1.96 * np.sqrt(3 / 4 / 400), rel=0.15)
        assert entry.n_prompts == 400


def test_samples_of_one_prompt_are_no_further_prompts() -> None:
    scores = make_scores(50)
    twice = pl.concat([scores, scores.with_columns(sample=pl.lit(1, dtype=pl.Int64))])
    first, second = rank_policies(scores), rank_policies(twice)
    for one, two in zip(first.policies, second.policies, strict=True):
        assert one.n_prompts == two.n_prompts
        assert (one.mean_low, one.mean_high) == pytest.approx((two.mean_low, two.mean_high))


def test_a_policy_with_one_prompt_has_an_interval_of_no_width() -> None:
    scores = make_scores(30)
    lonely = scores.filter((pl.col("policy") != SIMPO) | (pl.col("prompt_id") == "p003"))
    entry = next(p for p in rank_policies(lonely).policies if p.policy == SIMPO)
    assert entry.mean_low == entry.mean_score == entry.mean_high


def test_the_matrix_agrees_with_the_audit_against_any_reference() -> None:
    scores = make_scores(60)
    found = win_rate_matrices(scores, ELO)
    assert list(found.policies) == sorted(found.policies, key=lambda p: -ELO.ratings([p])[0, 0])
    audit = audit_scores(scores, ELO, reference=MINI, n_resamples=2)
    column = found.policies.index(MINI)
    for entry in audit.policies:
        row = found.policies.index(entry.policy)
        assert found.before[row][column] == pytest.approx(entry.win_rate, abs=1e-12)
        assert found.expected[row][column] == pytest.approx(entry.expected_win_rate, abs=1e-12)
        assert found.n_shared[row][column] == 60


def test_the_matrix_after_moves_only_what_has_an_offset() -> None:
    from charm_rm.calibrate import calibrate_pair

    scores = make_scores(60)
    calibration = calibrate_pair(scores, ELO, over_valued=SIMPO, reference=MINI, n_resamples=2)
    moved = apply_offsets(scores, calibration).with_columns(score="calibrated_score")
    found = win_rate_matrices(scores, ELO, after=moved)
    assert found.after is not None
    i, j = found.policies.index(SIMPO), found.policies.index(MINI)
    assert found.after[i][j] == pytest.approx(found.expected[i][j], abs=1e-9)
    for a in range(len(found.policies)):
        for b in range(len(found.policies)):
            if i not in (a, b):
                assert found.after[a][b] == found.before[a][b]


def test_policies_that_share_no_prompt_have_no_win_rate() -> None:
    scores = make_scores(60)
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    apart = scores.filter((number < 30) == (pl.col("policy") == SIMPO))
    found = win_rate_matrices(apart, ELO)
    i, j = found.policies.index(SIMPO), found.policies.index(MINI)
    assert found.before[i][j] is None
    assert found.n_shared[i][j] == 0
