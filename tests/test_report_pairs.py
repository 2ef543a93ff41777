"""Flipped pairs on the page: which are shown, what of them, and what is said to be left out."""

import polars as pl
import pytest
from builders import MINI, SIMPO, make_responses, make_scores

from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import Calibration
from charm_rm.data.tables import DataError
from charm_rm.pairs import PreferencePairs, build_pairs
from charm_rm.report.findings import Findings
from charm_rm.report.flipped import MOST_BYTES, RESPONSE_LENGTH, harmless, show_pairs
from charm_rm.report.page import render_page


@pytest.fixture(scope="module")
def scores() -> pl.DataFrame:
    return make_scores(200)


@pytest.fixture(scope="module")
def calibration(scores: pl.DataFrame) -> Calibration:
    elo = read_elo("table7")
    return calibrate_pair(scores, elo, over_valued=SIMPO, reference=MINI, n_resamples=2)


@pytest.fixture(scope="module")
def pairs(scores: pl.DataFrame, calibration: Calibration) -> PreferencePairs:
    return build_pairs(scores, calibration, responses=make_responses(scores))


def test_the_numbers_are_those_of_the_pairs(pairs: PreferencePairs) -> None:
    found = show_pairs(pairs.frame)
    assert found.n_pairs == len(pairs.frame)
    assert found.n_flipped == pairs.n_flipped > 60
    assert found.chosen_share == pairs.chosen_share


def test_the_shown_pairs_are_spread_from_the_widest_to_the_narrowest(
    pairs: PreferencePairs,
) -> None:
    found = show_pairs(pairs.frame, most=7)
    margins = [pair.chosen.after - pair.rejected.after for pair in found.shown]
    flipped = pairs.frame.filter("flipped")["margin"]
    assert len(margins) == 7
    assert margins == sorted(margins, reverse=True)
    assert margins[0] == pytest.approx(flipped.max())
    assert margins[-1] == pytest.approx(flipped.min())
    assert margins[3] == pytest.approx(flipped.median(), abs=0.05)


@pytest.mark.parametrize("from_scores", [True, False])
def test_the_scores_before_come_from_the_scores_or_from_the_offsets(
    pairs: PreferencePairs, scores: pl.DataFrame, calibration: Calibration, from_scores: bool
) -> None:
    known = {"scores": scores} if from_scores else {"calibration": calibration}
    raw = {(p, policy): s for p, policy, _, s, _ in scores.iter_rows()}
    for pair in show_pairs(pairs.frame, **known).shown:
        for side in (pair.chosen, pair.rejected):
            assert side.before == pytest.approx(raw[pair.prompt_id, side.policy])
        assert pair.chosen.before is not None
        assert pair.rejected.before is not None
        assert pair.chosen.before < pair.rejected.before
        assert pair.chosen.after > pair.rejected.after


def test_without_either_the_scores_before_are_not_known(pairs: PreferencePairs) -> None:
    assert {pair.chosen.before for pair in show_pairs(pairs.frame).shown} == {None}


def test_texts_come_from_responses_where_the_pairs_have_none(
    pairs: PreferencePairs, scores: pl.DataFrame, calibration: Calibration
) -> None:
    bare = build_pairs(scores, calibration).frame
    assert show_pairs(bare).shown[0].prompt is None
    found = show_pairs(bare, responses=make_responses(scores))
    assert found.shown == show_pairs(pairs.frame).shown


def test_long_texts_are_cut_and_the_rest_is_counted(pairs: PreferencePairs) -> None:
    long = pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.lit("ab" * 500_000)))
    found = show_pairs(pairs.frame.with_columns(chosen=long))
    side = found.shown[0].chosen
    assert side.text == "ab" * (RESPONSE_LENGTH // 2)
    assert side.n_cut == 1_000_000 - RESPONSE_LENGTH


@pytest.mark.parametrize("sign", ["<", "漢", "\U0001f600", "\n", "\\"])
def test_the_texts_stay_within_their_budget_whatever_their_signs(
    pairs: PreferencePairs, sign: str
) -> None:
    text = pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.lit(sign * 9_000)))
    found = show_pairs(pairs.frame.with_columns(chosen=text, rejected=text), most=500)
    assert len(found.shown) > 0
    empty = len(render_page(Findings("t")).encode())
    page = render_page(Findings("t", pairs=found))
    assert len(page.encode()) - empty < MOST_BYTES + 200_000
    left_out = found.n_flipped - len(found.shown)
    assert (f"{left_out} are left out" in page) == (left_out > 0)


def test_control_signs_are_made_visible_and_lines_stay() -> None:
    assert harmless("a\x00\x1b[31m\r\n\tb\x7f", length=99) == ("a␀␛[31m\n\tb␡", 0)


def test_a_conversation_keeps_who_said_what(pairs: PreferencePairs) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    talk = pl.Series("prompt", [turns] * len(pairs.frame))
    shown = show_pairs(pairs.frame.with_columns(talk)).shown[0]
    assert shown.prompt == "[user]\nHi\n\n[assistant]\nYes?"


def test_a_table_that_is_no_pairs_is_refused() -> None:
    with pytest.raises(DataError, match=r"pairs\.csv: no column 'prompt_id'"):
        show_pairs(pl.DataFrame({"chosen": ["a"]}), where="pairs.csv")
    bad = pl.DataFrame(
        [
            {"prompt_id": "p", "chosen_policy": "a", "rejected_policy": "b", "flipped": True}
            | {"chosen_score": "high", "rejected_score": 0.0}
        ]
    )
    with pytest.raises(DataError, match=r"pairs\.csv: not preference pairs"):
        show_pairs(bad, where="pairs.csv")
