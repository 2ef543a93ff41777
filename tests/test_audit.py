"""The audit: planted bias is found, nothing is found where nothing is, and real labels are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from builders import MINI, POLICIES, SIMPO, make_scores
from scipy.stats import binomtest, norm

from charm_rm.audit import audit_scores
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.win_rates import WinRateKind, hard_win_rate, sigmoid_win_rate
from charm_rm.data.arena import EloTable, elo_table, read_elo
from charm_rm.data.tables import DataError

ELO = read_elo("table7")
COLUMNS = ["prompt_id", "policy", "sample", "score", "reward_model"]
SIDES = {"weak": -50.0, "best": 50.0}


def test_a_policy_with_points_to_spare_is_found_over_valued_and_suggested() -> None:
    audit = audit_scores(make_scores(200), ELO, reference=MINI)
    simpo = audit.policies[0]
    assert simpo.policy == SIMPO
    assert simpo.over_valued
    assert simpo.mismatch_low > 0.3
    assert audit.suggested_pair is not None
    assert (audit.suggested_pair.over_valued, audit.suggested_pair.reference) == (SIMPO, MINI)
    assert audit.suggested_pair.mismatch_degree == simpo.mismatch_degree


def test_the_audit_equals_the_definitions_prompt_by_prompt() -> None:
    scores = make_scores(50)
    audit = audit_scores(scores, ELO, reference=MINI)
    wide = scores.pivot(on="policy", index="prompt_id", values="score")
    margins = (wide[SIMPO] - wide[MINI]).to_numpy()
    found = next(entry for entry in audit.policies if entry.policy == SIMPO)
    assert found.win_rate == found.sigmoid_win_rate == pytest.approx(sigmoid_win_rate(margins))
    assert found.hard_win_rate == hard_win_rate(margins)
    expected = 1 / (1 + 10 ** ((1272 - 1216) / 400))
    assert found.expected_win_rate == pytest.approx(expected)
    assert found.signed_mismatch == pytest.approx(
        (found.win_rate - expected) / max(expected, 1 - expected)
    )
    assert found.mean_score == pytest.approx(wide[SIMPO].mean())


def test_the_reference_meets_itself_with_half_a_win_and_no_mismatch() -> None:
    audit = audit_scores(make_scores(), ELO, reference=MINI)
    entry = next(entry for entry in audit.policies if entry.policy == MINI)
    assert (entry.win_rate, entry.hard_win_rate, entry.expected_win_rate) == (0.5, 0.5, 0.5)
    assert (entry.signed_mismatch, entry.mismatch_low, entry.mismatch_high) == (0.0, 0.0, 0.0)
    assert not entry.over_valued


@pytest.mark.parametrize("win_rate", ["sigmoid", "hard"])
def test_losses_alone_show_only_what_so_many_prompts_can(win_rate: WinRateKind) -> None:
    """Elo expects 5%: 30 losses in a row have a chance of 19%, 400 none."""
    elo = elo_table(pl.DataFrame({"model": ["weak", "best"], "elo": [1000.0, 1500.0]}), name="x")
    for n, verdict in ((30, "too few prompts"), (400, "under-valued")):
        rows = [(str(i), name, 0, score, "rm") for i in range(n) for name, score in SIDES.items()]
        audit = audit_scores(
            pl.DataFrame(rows, schema=COLUMNS, orient="row"), elo, win_rate=win_rate
        )
        weak = audit.policies[1]
        assert (weak.policy, weak.verdict) == ("weak", verdict)
        most = binomtest(0, n).proportion_ci(method="exact").high
        assert [weak.hard_win_rate_low, weak.hard_win_rate_high] == pytest.approx([0.0, most])
        assert weak.mismatch_high == pytest.approx(
            float(signed_mismatch(most, weak.expected_win_rate))
        )
        assert weak.mismatch_low == pytest.approx(weak.signed_mismatch)


def test_the_strongest_by_elo_is_the_reference_unless_one_is_named() -> None:
    assert audit_scores(make_scores(), ELO).reference == MINI


def test_the_order_of_rows_changes_nothing() -> None:
    scores = make_scores()
    shuffled = scores.sample(fraction=1.0, shuffle=True, seed=1)
    assert audit_scores(scores, ELO) == audit_scores(shuffled, ELO)


def test_the_seed_alone_decides_the_intervals() -> None:
    scores = make_scores()
    assert audit_scores(scores, ELO, seed=3) == audit_scores(scores, ELO, seed=3)
    other = audit_scores(scores, ELO, seed=4)
    assert audit_scores(scores, ELO, seed=3).policies[0].mismatch_low != (
        other.policies[0].mismatch_low
    )


def test_uncertain_ratings_widen_the_interval() -> None:
    exact = EloTable(ELO.frame.with_columns(elo_low=None, elo_high=None), "", "", "exact")
    unsure = ELO.frame.with_columns(elo_low=pl.col("elo") - 100, elo_high=pl.col("elo") + 100)
    wide = replace(exact, frame=unsure)
    widths = []
    for table in (exact, wide):
        simpo = audit_scores(make_scores(400), table, reference=MINI).policies[0]
        widths.append(simpo.mismatch_high - simpo.mismatch_low)
    assert widths[1] > 2 * widths[0]


def test_prompts_not_answered_by_both_are_left_out_pair_by_pair() -> None:
    scores = make_scores(60)
    gone = (pl.col("policy") == SIMPO) & (pl.col("prompt_id") < "p010")
    audit = audit_scores(scores.filter(~gone), ELO, reference=MINI)
    n_prompts = {entry.policy: entry.n_prompts for entry in audit.policies}
    assert n_prompts == {SIMPO: 50, MINI: 60, "gpt4_0613": 60, "vicuna-7b": 60}


def test_a_scale_too_small_for_the_sigmoid_is_warned_about() -> None:
    tiny = make_scores(100).with_columns(pl.col("score") * 0.002)
    audit = audit_scores(tiny, ELO, reference=MINI)
    assert len(audit.warnings) == 1
    assert "differ by more than 0.05" in audit.warnings[0]
    hard = audit_scores(tiny, ELO, reference=MINI, win_rate="hard")
    assert hard.policies[0].over_valued
    assert not audit.policies[0].signed_mismatch > hard.policies[0].signed_mismatch


def test_samples_of_one_prompt_count_as_one_prompt() -> None:
    once = make_scores(40)
    twice = pl.concat([once, once.with_columns(sample=pl.lit(1, dtype=pl.Int64))])
    one, two = (audit_scores(scores, ELO, reference=MINI).policies[0] for scores in (once, twice))
    assert two.n_prompts == 40
    assert two.win_rate == pytest.approx(one.win_rate)
    assert two.mismatch_low == pytest.approx(one.mismatch_low)


@pytest.mark.parametrize(
    ("scores", "reference", "message"),
    [
        (make_scores(policies=(SIMPO,)), None, "only the policy"),
        (make_scores(policies=(SIMPO, "my-model")), None, "no Elo rating for 'my-model'"),
        (make_scores(20), None, "share 20 prompts; at least 30"),
        (make_scores(), "gpt-4o-mini", "no reference 'gpt-4o-mini'; nearest: gpt-4o-mini-2024"),
    ],
)
def test_scores_that_say_nothing_are_refused(
    scores: pl.DataFrame, reference: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        audit_scores(scores, ELO, reference=reference)


def test_nothing_above_its_elo_suggests_no_pair() -> None:
    audit = audit_scores(make_scores(boost=-3.0, policies=(SIMPO, MINI)), ELO, reference=MINI)
    assert audit.suggested_pair is None


def test_false_alarms_are_as_rare_as_the_interval_says() -> None:
    # The rating is set to what the population of margins deserves: nobody is over-valued.
    population = norm.ppf((np.arange(20000) + 0.5) / 20000, loc=-0.3, scale=1.0)
    deserved = 1000 + 400 * np.log10(1 / (1 / sigmoid_win_rate(population) - 1))
    ratings = ELO.frame.filter(pl.col("model").is_in([SIMPO, MINI])).with_columns(
        pl.when(pl.col("model") == SIMPO).then(deserved).otherwise(1000.0).alias("elo"),
        elo_low=None,
        elo_high=None,
    )
    elo = EloTable(ratings, "", "", "deserved")
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        rows = pl.DataFrame(
            {
                "prompt_id": [f"p{i}" for i in range(100)] * 2,
                "policy": [SIMPO] * 100 + [MINI] * 100,
                "sample": pl.Series([0] * 200, dtype=pl.Int64),
                "score": np.concatenate([rng.normal(-0.3, 1.0, 100), np.zeros(100)]),
                "reward_model": "rm",
            }
        )
        audit = audit_scores(rows, elo, reference=MINI, n_resamples=200)
        alarms += sum(entry.over_valued for entry in audit.policies)
    assert alarms <= 12  # 2.5% of 200 is 5; more than 12 has probability 0.002


def test_the_audit_of_real_judge_labels_finds_the_policies_in_elo_order(shared: Path) -> None:
    judge = pl.read_parquet(shared / "data/alpaca_eval/judge.parquet")
    win = (pl.col("preference") - 1).clip(1e-4, 1 - 1e-4)
    scores = judge.select(
        pl.col("instruction_id").cast(pl.String).alias("prompt_id"),
        pl.col("model").alias("policy"),
        pl.lit(0).cast(pl.Int64).alias("sample"),
        (win / (1 - win)).log().alias("score"),
        pl.lit("gpt-4-turbo judge").alias("reward_model"),
    ).filter(pl.col("policy").is_in(ELO.models))
    audit = audit_scores(scores, ELO, reference="gpt4_1106_preview")
    assert len(audit.policies) == 6
    assert audit.spearman is not None
    assert audit.spearman > 0.7
    assert all(entry.n_prompts >= 800 for entry in audit.policies)


def test_the_json_has_the_keys_that_scripts_rely_on() -> None:
    document = audit_scores(make_scores(), ELO).to_json()
    assert {"reference", "reward_model", "elo", "policies", "pearson", "spearman"} <= set(document)
    assert document["elo"] == {
        "board": "chatbot-arena text overall",
        "date": "2025-03-03",
        "errors": "independent",
    }
    assert document["suggested_pair"]["over_valued"] == SIMPO
    assert len(document["policies"]) == len(POLICIES)
    wanted = "policy elo n_prompts mean_score expected_win_rate win_rate hard_win_rate "
    wanted += "signed_mismatch mismatch_degree mismatch_low mismatch_high over_valued"
    assert set(wanted.split()) <= set(document["policies"][0])
