"""Calibration of one pair: the target is met, the interval covers, files come back."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from builders import MINI, SIMPO, make_scores
from scipy.stats import norm

from charm_rm.calibrate import calibrate_pair
from charm_rm.core.alternatives import probit_offset
from charm_rm.core.elo import expected_win_rate
from charm_rm.core.offsets import solve_offset
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import Calibration, apply_offsets, read_offsets
from charm_rm.data.tables import DataError, write_json

ELO = read_elo("table7")


def calibrate(scores: pl.DataFrame, **options: object) -> Calibration:
    names = {"over_valued": SIMPO, "reference": MINI, "n_resamples": 200} | options
    return calibrate_pair(scores, ELO, **names)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1.0, 0.1, 7.0])
def test_the_sigmoid_win_rate_after_the_offset_is_the_expected_one(temperature: float) -> None:
    entry = calibrate(make_scores(150), temperature=temperature).offsets[0]
    assert abs(entry.win_rate_after - entry.expected_win_rate) <= 1e-10
    assert abs(entry.mismatch_after) <= 1e-9
    assert entry.mismatch_before > 0.3
    assert entry.offset_low < entry.offset < entry.offset_high < 0


def test_the_hard_win_rate_after_the_offset_is_within_half_a_step() -> None:
    calibration = calibrate(make_scores(151), win_rate="hard")
    entry = calibration.offsets[0]
    assert abs(entry.hard_win_rate_after - entry.expected_win_rate) <= 0.5 / 151
    assert calibration.warnings == ()


def test_scores_on_a_coarse_grid_stop_at_the_nearest_rate_and_say_so() -> None:
    verdicts = make_scores(100).with_columns(score=(pl.col("policy") == SIMPO).cast(pl.Float64))
    calibration = calibrate(verdicts, win_rate="hard")
    assert calibration.offsets[0].hard_win_rate_after == 0.5
    assert len(calibration.warnings) == 1
    assert "is the nearest it can reach" in calibration.warnings[0]


def test_a_calibrated_pair_needs_no_further_offset() -> None:
    scores = make_scores(120)
    first = calibrate(scores)
    moved = apply_offsets(scores, first).with_columns(score="calibrated_score")
    again = calibrate(moved.drop("calibrated_score"))
    assert again.offsets[0].offset == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_the_probit_shift_is_the_cores_with_an_interval_around_it(
    kind: str, tmp_path: Path
) -> None:
    scores = make_scores(150)
    found = calibrate(scores, method="probit", win_rate=kind)
    wide = scores.pivot(on="policy", index="prompt_id", values="score")
    margins, target = (wide[SIMPO] - wide[MINI]).to_numpy(), float(expected_win_rate(1216, 1272))
    entry = found.offsets[0]
    assert entry.offset == pytest.approx(probit_offset(margins, target, kind=kind))  # type: ignore[arg-type]
    assert entry.offset_low < entry.offset < entry.offset_high
    assert 0 < abs(entry.mismatch_after) < 0.1  # a closed form, so not exact
    write_json(found.to_json(), tmp_path / "o.json")
    assert read_offsets(tmp_path / "o.json") == found
    with pytest.raises(ValueError, match="method must be 'offset' or 'probit', got 'root'"):
        calibrate(scores, method="root")


def test_a_constant_added_to_all_scores_changes_nothing() -> None:
    scores = make_scores(80)
    shifted = scores.with_columns(pl.col("score") + 100.0)
    one, two = calibrate(scores).offsets[0], calibrate(shifted).offsets[0]
    assert two.offset == pytest.approx(one.offset)


def test_the_interval_covers_the_planted_offset() -> None:
    # margins around a known centre: the offset over all prompts that could be drawn is known
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        margins = rng.normal(1.5, 1.0, 120)
        rows = pl.DataFrame(
            {
                "prompt_id": [f"p{i:03d}" for i in range(120)] * 2,
                "policy": [SIMPO] * 120 + [MINI] * 120,
                "sample": pl.Series([0] * 240, dtype=pl.Int64),
                "score": np.concatenate([margins, np.zeros(120)]),
                "reward_model": "rm",
            }
        )
        entry = calibrate(rows).offsets[0]
        covered += entry.offset_low <= TRUE_OFFSET <= entry.offset_high
    assert 134 <= covered <= 149  # 95% of 150 is 142.5; outside has probability 0.003


def _true_offset() -> float:
    grid = norm.ppf((np.arange(20000) + 0.5) / 20000, loc=1.5)
    return solve_offset(grid, float(expected_win_rate(1216.0, 1272.0)))


TRUE_OFFSET = _true_offset()


def test_offsets_come_back_from_their_file(tmp_path: Path) -> None:
    calibration = calibrate(make_scores(), made_by={"version": "1", "inputs": {}})
    write_json(calibration.to_json(), tmp_path / "offsets.json")
    assert read_offsets(tmp_path / "offsets.json") == calibration


def test_the_file_has_the_keys_that_scripts_rely_on() -> None:
    document = calibrate(make_scores()).to_json()
    assert set(document) >= {"reward_model", "elo", "reference", "win_rate", "temperature"}
    wanted = "policy category offset offset_low offset_high n_prompts expected_win_rate "
    wanted += "win_rate_before win_rate_after hard_win_rate_before hard_win_rate_after "
    wanted += "mismatch_before mismatch_after"
    assert set(wanted.split()) <= set(document["offsets"][0])
    assert document["made_by"]["seed"] == 0
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "not json", "[" * 100_000, '{"offsets": [{"policy": "a"}], "reward_model": "x"}'],
)
def test_a_file_that_is_no_offsets_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(DataError, match="not an offsets file"):
        read_offsets(tmp_path / "o.json")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "1", True])
def test_an_offset_that_is_no_finite_number_is_refused(tmp_path: Path, value: object) -> None:
    document = calibrate(make_scores()).to_json()
    document["offsets"][0]["offset"] = value
    (tmp_path / "o.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"not an offsets file \(offset is .*not a finite number"):
        read_offsets(tmp_path / "o.json")


def test_keys_that_are_not_known_are_left_alone(tmp_path: Path) -> None:
    calibration = calibrate(make_scores())
    document = calibration.to_json() | {"comment": "by hand"}
    document["offsets"][0]["comment"] = "by hand"
    write_json(document, tmp_path / "o.json")
    assert read_offsets(tmp_path / "o.json") == calibration


def test_offsets_of_another_reward_model_are_not_applied() -> None:
    scores = make_scores()
    other = scores.with_columns(reward_model=pl.lit("other-rm"))
    with pytest.raises(DataError, match="scores of 'other-rm', offsets of 'toy-rm'"):
        apply_offsets(other, calibrate(scores))


def test_one_model_is_no_pair() -> None:
    with pytest.raises(DataError, match="both over-valued and reference"):
        calibrate(make_scores(), reference=SIMPO)


def test_too_few_shared_prompts_are_refused() -> None:
    scores = make_scores(60)
    few = scores.filter((pl.col("policy") != SIMPO) | (pl.col("prompt_id") < "p029"))
    with pytest.raises(DataError, match="share 29 prompts"):
        calibrate(few)
    none = scores.filter((pl.col("policy") == SIMPO) == (pl.col("prompt_id") < "p030"))
    with pytest.raises(DataError, match="share 0 prompts"):
        calibrate(none)
