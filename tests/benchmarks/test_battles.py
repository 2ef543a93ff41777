"""Battles against Elo: a twin that loops, a cure before and after, and refusals."""

import json
import math
from importlib.resources import files

import numpy as np
import polars as pl
import pytest
from builders import MINI, POLICIES, SIMPO, make_scores

from charm_rm.audit import audit_scores
from charm_rm.benchmarks.battles import Battles, fight_battles
from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import apply_offsets
from charm_rm.data.scores import read_scores
from charm_rm.data.tables import DataError

ELO = read_elo("table7")


def fight(
    scores: pl.DataFrame,
    after: pl.DataFrame | None = None,
    seen: tuple[str, ...] = (),
    opponents: tuple[str, ...] = (MINI,),
) -> Battles:
    return fight_battles(scores, ELO, opponents=opponents, after=after, seen=seen, n_resamples=200)


def boosted(scores: pl.DataFrame, policy: str, points: float) -> pl.DataFrame:
    moved = pl.when(pl.col("policy") == policy).then(points).otherwise(0.0)
    return scores.with_columns(pl.col("score") + moved)


def test_every_battle_is_what_a_plain_loop_over_prompts_gives() -> None:
    scores = make_scores()
    found = fight(scores[np.random.default_rng(1).permutation(len(scores)).tolist()])
    by = {(p, q): s for p, q, s in scores.select("prompt_id", "policy", "score").iter_rows()}
    ratings = dict(ELO.frame.select("model", "elo").iter_rows())
    battles = {battle.policy: battle for battle in found.battlefields[0].battles}
    assert set(battles) == set(POLICIES) - {MINI}
    for policy, battle in battles.items():
        margins = [by[prompt, policy] - by[prompt, MINI] for prompt in {p for p, _ in by}]
        rate = math.fsum(1 / (1 + math.exp(-margin)) for margin in margins) / len(margins)
        expected = 1 / (1 + 10 ** ((ratings[MINI] - ratings[policy]) / 400))
        assert battle.before.win_rate == pytest.approx(rate)
        assert battle.before.hard_win_rate == pytest.approx(np.mean(np.array(margins) > 0))
        assert battle.expected_win_rate == pytest.approx(expected)
        degree = abs(rate - expected) / max(expected, 1 - expected)
        assert battle.before.mismatch_degree == pytest.approx(degree)
    degrees = [battle.before.mismatch_degree for battle in battles.values()]
    summary = found.battlefields[0].summaries["all"]
    assert summary.before == pytest.approx(np.mean(degrees))
    rates = [battle.before.win_rate for battle in battles.values()]
    wanted = [battle.expected_win_rate for battle in battles.values()]
    assert summary.pearson_before == pytest.approx(np.corrcoef(rates, wanted)[0, 1])


def test_an_offset_cures_the_policy_it_is_for_and_no_other() -> None:
    scores = make_scores()
    calibration = calibrate_pair(scores, ELO, over_valued=SIMPO, reference=MINI, n_resamples=50)
    moved = apply_offsets(scores, calibration)
    after = moved.drop("score").rename({"calibrated_score": "score"})
    field = fight(scores, after, seen=(SIMPO, MINI)).battlefields[0]
    for battle in field.battles:
        assert battle.after is not None
        if battle.policy == SIMPO:
            assert battle.seen
            assert battle.after.mismatch_degree == pytest.approx(0.0, abs=1e-8)
        else:
            assert not battle.seen
            assert battle.after == battle.before
    seen, unseen = field.summaries["seen"], field.summaries["unseen"]
    assert (seen.n_policies, unseen.n_policies) == (1, len(POLICIES) - 2)
    assert seen.change is not None
    assert seen.change < -0.3
    assert (unseen.change, unseen.change_low, unseen.change_high) == (0.0, 0.0, 0.0)
    assert (seen.n_improved, unseen.n_improved) == (1, 0)


def test_the_interval_of_the_change_holds_a_change_that_all_policies_share() -> None:
    scores = make_scores(200, boost=3.0)
    found = fight(scores, boosted(scores, MINI, 0.5)).battlefields[0].summaries["all"]
    assert found.change is not None
    assert found.change_low is not None
    assert found.change_high is not None
    assert found.change_low < found.change < found.change_high


def test_each_opponent_has_a_battlefield_that_agrees_with_its_audit() -> None:
    scores = make_scores()
    found = fight(scores, opponents=(MINI, "vicuna-7b", MINI))
    assert [field.opponent for field in found.battlefields] == [MINI, "vicuna-7b"]
    audit = {entry.policy: entry for entry in audit_scores(scores, ELO, reference=MINI).policies}
    for battle in found.battlefields[0].battles:
        assert battle.before.win_rate == audit[battle.policy].win_rate


def test_the_document_is_json_and_holds_what_a_chart_needs() -> None:
    scores = make_scores()
    document = json.loads(json.dumps(fight(scores, scores).to_json(), allow_nan=False))
    battle = document["battlefields"][0]["battles"][0]
    assert {"policy", "seen", "elo", "expected_win_rate", "before", "after"} <= battle.keys()
    assert {"win_rate", "mismatch_degree", "mismatch_low", "mismatch_high"} <= battle[
        "after"
    ].keys()
    assert document["elo"] == ELO.to_json()
    assert document["battlefields"][0]["summaries"]["all"]["change"] == 0.0


def test_two_policies_have_no_correlation() -> None:
    scores = make_scores().filter(pl.col("policy").is_in([SIMPO, MINI]))
    summary = fight(scores).battlefields[0].summaries["all"]
    assert (summary.pearson_before, summary.spearman_before, summary.after) == (None, None, None)


def test_the_bundled_scores_rank_simpo_as_most_over_valued() -> None:
    path = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")
    battles = fight(read_scores([path])).battlefields[0].battles
    assert len(battles) == 19
    worst = max(battles, key=lambda battle: battle.before.signed_mismatch)
    assert worst.policy == SIMPO


def test_names_and_tables_that_do_not_fit_are_refused() -> None:
    scores = make_scores()
    with pytest.raises(DataError, match="no opponent 'vicuna'; nearest: vicuna-7b"):
        fight(scores, opponents=("vicuna",))
    with pytest.raises(DataError, match="no seen policy 'gpt5'"):
        fight(scores, seen=("gpt5",))
    with pytest.raises(ValueError, match="no opponent"):
        fight(scores, opponents=())
    lost = scores.filter(pl.col("prompt_id") != "p007")
    with pytest.raises(DataError, match=f"scores after: {len(POLICIES)} responses have none there"):
        fight(scores, lost)
    with pytest.raises(DataError, match="scores before: "):
        fight(lost, scores)
