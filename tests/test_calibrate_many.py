"""Offsets by category and for all policies at once: their laws, their files, their refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from builders import MINI, POLICIES, SIMPO, make_scores

from charm_rm.calibrate import calibrate_pair, pair_policies
from charm_rm.calibrate_many import calibrate_categories, calibrate_jointly
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.significance import unanimous_interval
from charm_rm.core.uncertainty import offset_standard_error
from charm_rm.core.win_rates import sigmoid_win_rate
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import Calibration, apply_offsets, read_offsets
from charm_rm.data.tables import DataError, write_json
from charm_rm.pairs import build_pairs

ELO = read_elo("table7")


def labelled(n_prompts: int = 300, *, extra: float = 2.0) -> pl.DataFrame:
    """Scores of which a third, the math prompts, favour the first policy by ``extra`` points."""
    scores = make_scores(n_prompts)
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    names = pl.when(number % 3 == 0).then(pl.lit("math")).otherwise(pl.lit("chat"))
    favoured = (pl.col("policy") == SIMPO) & (pl.col("category") == "math")
    return scores.with_columns(names.alias("category")).with_columns(
        pl.when(favoured).then(pl.col("score") + extra).otherwise("score").alias("score")
    )


def by_category(scores: pl.DataFrame, **options: object) -> Calibration:
    names = {"over_valued": SIMPO, "reference": MINI} | options
    return calibrate_categories(scores, ELO, **names)  # type: ignore[arg-type]


def test_a_category_that_is_favoured_more_gets_a_larger_offset() -> None:
    plain = {entry.category: entry for entry in by_category(labelled(), shrink=False).offsets}
    assert plain["math"].offset == pytest.approx(plain["chat"].offset - 2.0, abs=0.5)
    for entry in plain.values():
        assert entry.win_rate_after == pytest.approx(entry.expected_win_rate, abs=1e-10)


def test_shrinking_draws_both_categories_toward_the_global_offset() -> None:
    scores = labelled()
    plain = {entry.category: entry.offset for entry in by_category(scores, shrink=False).offsets}
    drawn = {entry.category: entry.offset for entry in by_category(scores).offsets}
    whole = calibrate_pair(scores, ELO, over_valued=SIMPO, reference=MINI, n_resamples=10)
    assert plain["math"] < drawn["math"] < whole.offsets[0].offset < drawn["chat"] < plain["chat"]


def test_a_single_category_has_the_global_offset() -> None:
    scores = make_scores(100).with_columns(category=pl.lit("chat"))
    (entry,) = by_category(scores).offsets
    whole = calibrate_pair(scores, ELO, over_valued=SIMPO, reference=MINI, n_resamples=10)
    assert entry.offset == pytest.approx(whole.offsets[0].offset, abs=1e-12)


def test_small_categories_share_an_offset_and_are_named() -> None:
    scores = labelled(120).with_columns(
        pl.when(pl.col("prompt_id") < "p012")
        .then(pl.lit("rare-") + pl.col("prompt_id").str.slice(3))
        .otherwise("category")
        .alias("category")
    )
    calibration = by_category(scores)
    rare = {entry.offset for entry in calibration.offsets if str(entry.category).startswith("rare")}
    assert len(rare) == 1
    assert "under 30 prompts each" in calibration.warnings[0]
    assert "rare-0" in calibration.warnings[0]


def test_of_many_small_categories_a_few_are_named_and_the_rest_counted() -> None:
    scores = labelled(120).with_columns(category="prompt_id")
    assert by_category(scores).warnings[0].endswith("p000, p001, p002, p003, p004 and 115 more")


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_losses_alone_leave_the_mismatch_open_in_every_offsets_file(kind: str) -> None:
    rows = [
        (f"{i:02d}", name, 0, score, "rm", "any")
        for i in range(40)
        for name, score in ((SIMPO, 0.0), (MINI, 5.0))
    ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model", "category"]
    scores = pl.DataFrame(rows, schema=names, orient="row")
    pair = {"over_valued": SIMPO, "reference": MINI, "win_rate": kind}
    found = [
        calibrate_pair(scores, ELO, **pair),  # type: ignore[arg-type]
        calibrate_categories(scores, ELO, **pair),  # type: ignore[arg-type]
        calibrate_jointly(scores, ELO, reference=MINI, win_rate=kind),  # type: ignore[arg-type]
    ]
    lost = {"sigmoid": sigmoid_win_rate(np.array([-5.0])), "hard": 0.0}[kind]
    most = float(unanimous_interval(lost, n_prompts=40)[1])
    for calibration in found:
        entry = calibration.offsets[0]
        worst = float(signed_mismatch(most, entry.expected_win_rate))
        assert entry.mismatch_before_high >= worst - 1e-12
        assert entry.mismatch_before_low <= entry.mismatch_before


@pytest.mark.parametrize("scale", [1e-300, 1e-100])
def test_scores_of_no_scale_are_ties_and_no_overflow(scale: float) -> None:
    scores = labelled(60).with_columns(score=pl.col("score") * scale)
    found = calibrate_jointly(scores, ELO, reference=MINI, win_rate="hard", n_resamples=20)
    assert found.offsets[0].hard_win_rate_before == 0.5
    assert all(np.isfinite([entry.offset_low, entry.offset_high]).all() for entry in found.offsets)


def test_the_pairs_of_all_categories_are_one_data_set(tmp_path: Path) -> None:
    scores = labelled()
    calibration = by_category(scores)
    write_json(calibration.to_json(), tmp_path / "o.json")
    assert read_offsets(tmp_path / "o.json") == calibration
    frame = build_pairs(scores, calibration).frame
    assert len(frame) == 300
    assert set(frame["category"]) == {"math", "chat"}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (make_scores(), "no column 'category'; fill it with charm categorize"),
        (make_scores().with_columns(category=pl.lit(None, dtype=pl.String)), "has no category"),
        (
            make_scores().with_columns(category=pl.col("policy")),
            "prompt 'p000' has two categories",
        ),
    ],
)
def test_prompts_without_exactly_one_category_are_refused(
    scores: pl.DataFrame, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        by_category(scores)


def test_of_two_policies_the_joint_offset_is_the_pairs() -> None:
    scores = make_scores(200, policies=(SIMPO, MINI))
    (joint,) = calibrate_jointly(scores, ELO, reference=MINI).offsets
    pair = calibrate_pair(scores, ELO, over_valued=SIMPO, reference=MINI).offsets[0]
    assert joint.offset == pytest.approx(pair.offset, abs=1e-9)
    assert joint.offset_low == pytest.approx(pair.offset_low, abs=0.05)
    assert joint.offset_high == pytest.approx(pair.offset_high, abs=0.05)


def test_the_gauge_moves_all_offsets_alike() -> None:
    scores = make_scores(100)
    one, other = (calibrate_jointly(scores, ELO, reference=name) for name in (MINI, "vicuna-7b"))
    of_one = {entry.policy: entry.offset for entry in one.offsets} | {MINI: 0.0}
    of_other = {entry.policy: entry.offset for entry in other.offsets} | {"vicuna-7b": 0.0}
    shifts = [of_one[name] - of_other[name] for name in POLICIES]
    assert shifts == pytest.approx([shifts[0]] * len(POLICIES), abs=1e-9)


def test_the_residuals_are_what_is_left_of_every_pair(tmp_path: Path) -> None:
    scores = make_scores(100)
    calibration = calibrate_jointly(scores, ELO, reference=MINI)
    joint = calibration.joint
    assert joint is not None
    assert joint["gradient_norm"] <= 1e-12
    residuals = np.array(joint["residuals"])
    assert residuals == pytest.approx(-residuals.T, abs=1e-12)
    off = ~np.eye(len(POLICIES), dtype=bool)
    assert joint["rmse"] == pytest.approx(np.sqrt((residuals[off] ** 2).mean()))
    assert joint["rmse"] < joint["rmse_before"]
    moved = apply_offsets(scores, calibration).with_columns(score="calibrated_score")
    again = calibrate_jointly(moved.drop("calibrated_score"), ELO, reference=MINI)
    assert [entry.offset for entry in again.offsets] == pytest.approx([0.0] * 3, abs=1e-9)
    write_json(calibration.to_json(), tmp_path / "o.json")
    assert read_offsets(tmp_path / "o.json") == replace(calibration)


def test_joint_hard_offsets_have_intervals_and_bring_the_hard_rates_near_elo(
    tmp_path: Path,
) -> None:
    scores = make_scores(200)
    found = calibrate_jointly(scores, ELO, reference=MINI, win_rate="hard", n_resamples=300)
    assert found.win_rate == "hard"
    assert found.joint is not None
    assert found.joint["rmse"] < 0.3 * found.joint["rmse_before"]
    for entry in found.offsets:
        assert entry.offset_low < entry.offset < entry.offset_high
        assert abs(entry.mismatch_after) < 0.1
    again = calibrate_jointly(scores, ELO, reference=MINI, win_rate="hard", n_resamples=300)
    assert again == found
    write_json(found.to_json(), tmp_path / "o.json")
    assert read_offsets(tmp_path / "o.json") == found
    with pytest.raises(ValueError, match="at least 2 resamples, got 1"):
        calibrate_jointly(scores, ELO, reference=MINI, win_rate="hard", n_resamples=1)


def test_of_two_policies_the_joint_hard_offset_and_its_interval_are_the_pairs() -> None:
    scores = make_scores(200, policies=(SIMPO, MINI))
    (joint,) = calibrate_jointly(scores, ELO, reference=MINI, win_rate="hard").offsets
    pair = calibrate_pair(scores, ELO, over_valued=SIMPO, reference=MINI, win_rate="hard")
    assert joint.offset == pytest.approx(pair.offsets[0].offset)
    width = pair.offsets[0].offset_high - pair.offsets[0].offset_low
    assert joint.offset_low == pytest.approx(pair.offsets[0].offset_low, abs=0.15 * width)
    assert joint.offset_high == pytest.approx(pair.offsets[0].offset_high, abs=0.15 * width)


def test_few_prompts_widen_the_interval_beyond_the_normal_one() -> None:
    scores = make_scores(30, policies=(SIMPO, MINI))
    (joint,) = calibrate_jointly(scores, ELO, reference=MINI).offsets
    (split,) = by_category(scores.with_columns(category=pl.lit("all"))).offsets
    pair = pair_policies(scores, ELO, over_valued=SIMPO, reference=MINI)
    error = offset_standard_error(pair.margins, pair.target, target_error=pair.target_error)
    for entry in (joint, split):
        reach = entry.offset_high - entry.offset
        assert reach == pytest.approx(2.0452296421 * error, rel=1e-3)  # Student's t, 29 degrees


def test_joint_offsets_need_a_known_reference_and_shared_prompts() -> None:
    with pytest.raises(DataError, match="no reference 'gpt-4o-mini'; nearest"):
        calibrate_jointly(make_scores(), ELO, reference="gpt-4o-mini")
    scores = make_scores(60)
    few = scores.filter((pl.col("policy") != SIMPO) | (pl.col("prompt_id") < "p010"))
    with pytest.raises(DataError, match="share 10 prompts"):
        calibrate_jointly(few, ELO, reference=MINI)
