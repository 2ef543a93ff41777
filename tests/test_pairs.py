"""Preference pairs: which side is chosen, what is flipped, what is dropped."""

from dataclasses import replace
from itertools import combinations

import polars as pl
import pytest
from builders import MINI, SIMPO, make_responses, make_scores

from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import Calibration
from charm_rm.data.tables import DataError
from charm_rm.pairs import build_pairs


@pytest.fixture(scope="module")
def scores() -> pl.DataFrame:
    return make_scores(100)


@pytest.fixture(scope="module")
def calibration(scores: pl.DataFrame) -> Calibration:
    return calibrate_pair(
        scores, read_elo("table7"), over_valued=SIMPO, reference=MINI, n_resamples=10
    )


def test_pairs_equal_a_loop_over_prompts(scores: pl.DataFrame, calibration: Calibration) -> None:
    offset = calibration.offsets[0].offset
    rows = {(r["prompt_id"], r["policy"]): r["score"] for r in scores.iter_rows(named=True)}
    pairs = build_pairs(scores, calibration)
    assert len(pairs.frame) == 100
    for pair in pairs.frame.iter_rows(named=True):
        one, other = rows[pair["prompt_id"], SIMPO], rows[pair["prompt_id"], MINI]
        calibrated = {SIMPO: one + offset, MINI: other}
        chosen = max(calibrated, key=lambda policy: calibrated[policy])
        assert pair["chosen_policy"] == chosen
        assert pair["chosen_score"] == pytest.approx(calibrated[chosen])
        assert pair["margin"] == pytest.approx(abs(one + offset - other))
        assert pair["flipped"] == ((one > other) != (one + offset > other))
    assert pairs.n_flipped == pairs.frame["flipped"].sum() > 0


def test_the_uncalibrated_twin_chooses_by_raw_scores_and_flips_nothing(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    twin = build_pairs(scores, calibration, uncalibrated=True)
    plain = build_pairs(scores, calibration)
    assert twin.n_flipped == 0
    assert twin.frame["prompt_id"].equals(plain.frame["prompt_id"])
    differ = (twin.frame["chosen_policy"] != plain.frame["chosen_policy"]).sum()
    assert differ == plain.n_flipped


def test_texts_belong_to_the_policies_that_wrote_them(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    shuffled = make_responses(scores).sample(fraction=1.0, shuffle=True, seed=3)
    frame = build_pairs(scores, calibration, responses=shuffled).frame
    for row in frame.iter_rows(named=True):
        for side in ("chosen", "rejected"):
            text = f"{row[f'{side}_policy']} says: it is {row['prompt_id']}"
            assert row[side] == [{"role": "assistant", "content": text}]
        assert row["prompt"] == [{"role": "user", "content": f"Tell me of {row['prompt_id']}"}]


def test_an_exact_tie_gives_no_pair_and_is_counted(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    tied = scores.with_columns(
        pl.when((pl.col("prompt_id") == "p007") & pl.col("policy").is_in([SIMPO, MINI]))
        .then(1.25)
        .otherwise("score")
        .alias("score")
    )
    twin = build_pairs(tied, calibration, uncalibrated=True)
    assert (twin.n_ties, twin.n_shared, len(twin.frame)) == (1, 100, 99)
    assert "p007" not in twin.frame["prompt_id"].to_list()


def test_scores_in_tenths_tie_whatever_their_rounding(calibration: Calibration) -> None:
    rows = make_scores(50, decimals=1)
    other = rows.filter(pl.col("policy") == MINI)
    same = other.with_columns(pl.lit(SIMPO).alias("policy"), pl.col("score") + 0.3)
    offset = replace(calibration.offsets[0], offset=-0.3)
    both = pl.concat([other, same])
    assert (both.filter(pl.col("policy") == SIMPO)["score"] - 0.3 != other["score"]).any()
    with pytest.raises(DataError, match="all 50 pairs are exact ties"):
        build_pairs(both, replace(calibration, offsets=(offset,)))


def test_an_empty_margin_band_is_refused(scores: pl.DataFrame, calibration: Calibration) -> None:
    with pytest.raises(ValueError, match=r"no margin is at least 5\.0 and at most 1\.0"):
        build_pairs(scores, calibration, min_margin=5.0, max_margin=1.0)


def test_two_equal_texts_give_no_pair_and_are_counted(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    same = make_responses(scores).with_columns(
        pl.when(pl.col("prompt_id") == "p003")
        .then(pl.lit("No."))
        .otherwise("response")
        .alias("response")
    )
    pairs = build_pairs(scores, calibration, responses=same)
    assert (pairs.n_equal_texts, len(pairs.frame)) == (1, 99)
    assert (pairs.frame["chosen"] != pairs.frame["rejected"]).all()


def test_the_category_of_the_prompt_is_carried(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    labelled = scores.with_columns(category=pl.lit("math"))
    assert build_pairs(labelled, calibration).frame["category"].unique().to_list() == ["math"]


def test_a_scored_response_that_is_not_there_is_named(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    responses = make_responses(scores)
    gone = (pl.col("prompt_id") == "p050") & (pl.col("policy") == MINI)
    with pytest.raises(DataError, match=f"none of '{MINI}' to prompt 'p050', .*1 missing"):
        build_pairs(scores, calibration, responses=responses.filter(~gone))


def test_scores_without_one_of_the_two_policies_are_refused(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    with pytest.raises(DataError, match=f"no policy '{MINI}'"):
        build_pairs(scores.filter(pl.col("policy") != MINI), calibration)
    apart = scores.filter((pl.col("policy") == SIMPO) == (pl.col("prompt_id") < "p050"))
    with pytest.raises(DataError, match="share no prompt"):
        build_pairs(apart, calibration)


@pytest.fixture(scope="module")
def four(scores: pl.DataFrame) -> Calibration:
    entry = calibrate_pair(
        scores, read_elo("table7"), over_valued=SIMPO, reference=MINI, n_resamples=10
    )
    offsets = [
        replace(entry.offsets[0], policy=name, offset=value) for name, value in OFFSETS.items()
    ]
    return replace(entry, offsets=tuple(offsets))


OFFSETS = {SIMPO: -3.0, "gpt4_0613": 0.5, "vicuna-7b": 0.25}


def calibrated_rows(scores: pl.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    """Raw and calibrated score by prompt and policy."""
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    for row in scores.iter_rows(named=True):
        moved = row["score"] + OFFSETS.get(row["policy"], 0.0)
        rows.setdefault(row["prompt_id"], {})[row["policy"]] = (row["score"], moved)
    return rows


def test_of_many_candidates_the_best_meets_the_worst(
    scores: pl.DataFrame, four: Calibration
) -> None:
    pairs = build_pairs(scores, four)
    rows = calibrated_rows(scores)
    assert len(pairs.frame) == 100
    for pair in pairs.frame.iter_rows(named=True):
        ranked = sorted(rows[pair["prompt_id"]].items(), key=lambda item: -item[1][1])
        assert (pair["chosen_policy"], pair["rejected_policy"]) == (ranked[0][0], ranked[-1][0])
        assert pair["flipped"] == (ranked[0][1][0] < ranked[-1][1][0])


def test_all_pairs_are_every_two_candidates_of_a_prompt(
    scores: pl.DataFrame, four: Calibration
) -> None:
    pairs = build_pairs(scores, four, select="all")
    assert len(pairs.frame) == 100 * 6
    assert (pairs.frame["margin"] > 0).all()
    rows = calibrated_rows(scores)
    flips = dict.fromkeys([*OFFSETS, MINI], 0)
    for of_prompt in rows.values():
        for one, other in combinations(sorted(of_prompt), 2):
            raw = of_prompt[one][0] - of_prompt[other][0]
            moved = of_prompt[one][1] - of_prompt[other][1]
            if raw * moved < 0:
                flips[one] += 1
                flips[other] += 1
    assert pairs.flips == flips
    assert pairs.n_flipped == sum(flips.values()) // 2


def test_a_margin_band_and_a_cap_keep_the_largest_margins_inside(
    scores: pl.DataFrame, four: Calibration
) -> None:
    whole = build_pairs(scores, four, select="all").frame
    inside = whole.filter(pl.col("margin").is_between(0.5, 2.0))
    banded = build_pairs(scores, four, select="all", min_margin=0.5, max_margin=2.0)
    assert banded.frame.equals(inside)
    assert banded.n_outside == len(whole) - len(inside)
    capped = build_pairs(scores, four, select="all", min_margin=0.5, max_margin=2.0, per_prompt=2)
    largest = inside.group_by("prompt_id", maintain_order=True).head(2)
    assert capped.frame.equals(largest)
    assert capped.n_capped == len(inside) - len(largest)


def test_offsets_by_category_move_each_category_by_its_own(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    labelled = scores.with_columns(
        category=pl.when(pl.col("prompt_id") < "p050")
        .then(pl.lit("math"))
        .otherwise(pl.lit("code"))
    )
    entry = calibration.offsets[0]
    both = replace(
        calibration,
        offsets=(
            replace(entry, category="math", offset=-100.0),
            replace(entry, category="code", offset=100.0),
        ),
    )
    frame = build_pairs(labelled, both).frame
    chosen = dict(frame.select("category", "chosen_policy").unique().iter_rows())
    assert chosen == {"math": MINI, "code": SIMPO}
    with pytest.raises(DataError, match="no column 'category'"):
        build_pairs(scores, both)
    other = labelled.with_columns(pl.col("category").replace("code", "poetry"))
    with pytest.raises(DataError, match=r"category 'poetry' of .* has no offset"):
        build_pairs(other, both)


def test_a_selection_that_leaves_nothing_or_is_unknown_is_refused(
    scores: pl.DataFrame, calibration: Calibration
) -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        build_pairs(scores, calibration, per_prompt=0)
    with pytest.raises(ValueError, match=r"'best-worst' or 'all', got 'worst'"):
        build_pairs(scores, calibration, select="worst")  # type: ignore[arg-type]
