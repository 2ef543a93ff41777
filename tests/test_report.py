"""The report: what stands on the page, what must not, and the files of its figures."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from builders import MINI, SIMPO, make_scores
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.audit import Audit, audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import EloTable, read_elo
from charm_rm.data.offsets import Calibration, apply_offsets
from charm_rm.data.tables import DataError
from charm_rm.pairs import PreferencePairs, build_pairs
from charm_rm.report.charts import draw_figures, elo_scatter, save_figures
from charm_rm.report.labels import CANDIDATES, Label, place_labels, text_width
from charm_rm.report.page import render_page
from charm_rm.report.theme import MARKS, verdict
from charm_rm.report.words import (
    MINUS,
    UNKNOWN,
    number,
    number_and_interval,
    percent,
    rate_and_interval,
)

ELO = read_elo("table7")
TWENTY = tuple([SIMPO, *(name for name in ELO.models if name != SIMPO)][:20])
HOSTILE = "</script><script>window.hacked = 1</script>"


class Page(HTMLParser):
    """The page as a browser's parser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.data: dict[str, str] = {}
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass  # a void element such as meta has no end

    def handle_data(self, data: str) -> None:
        if not self._inside:
            return
        within = self._inside[-1]
        if within not in ("script", "style"):
            self.words += data.split()
        self.data[within] = self.data.get(within, "") + data
        if within == "script" and "id" in self.tags[-1][1]:
            self.data["figures"] = data
        if {"td", "th"} & set(self._inside):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.words)


def renamed(elo: EloTable, old: str, new: str) -> EloTable:
    return replace(elo, frame=elo.frame.with_columns(pl.col("model").replace({old: new})))


def policies_of(chart: dict[str, Any]) -> set[str]:
    rows = [row for values in chart["datasets"].values() for row in values]
    return {row["policy"] for row in rows if "policy" in row}


@pytest.fixture(scope="module")
def scores() -> pl.DataFrame:
    return make_scores(60, policies=TWENTY)


@pytest.fixture(scope="module")
def audit(scores: pl.DataFrame) -> Audit:
    return audit_scores(scores, ELO, reference=MINI, n_resamples=100)


@pytest.fixture(scope="module")
def calibration(scores: pl.DataFrame) -> Calibration:
    return calibrate_pair(scores, ELO, over_valued=SIMPO, reference=MINI, n_resamples=100)


@pytest.fixture(scope="module")
def after(scores: pl.DataFrame, calibration: Calibration) -> Audit:
    calibrated = apply_offsets(scores, calibration).with_columns(score="calibrated_score")
    return audit_scores(calibrated, ELO, reference=MINI, n_resamples=100)


@pytest.fixture(scope="module")
def pairs(scores: pl.DataFrame, calibration: Calibration) -> PreferencePairs:
    return build_pairs(scores, calibration)


@pytest.fixture(scope="module")
def html(audit: Audit, after: Audit, calibration: Calibration, pairs: PreferencePairs) -> str:
    return render_page(
        audit=audit,
        after=after,
        calibration=calibration,
        pairs=pairs,
        title="A test",
        provenance={"Scores": "drawn at random for this test"},
        commands=["charm audit scores.parquet --elo table7", "charm report . --out page.html"],
    )


# What stands on the page


def test_the_page_shows_every_policy_with_the_numbers_of_the_audit(html: str, audit: Audit) -> None:
    rows = {row[0]: row for row in Page(html).rows}
    for found in audit.policies:
        word = verdict(found, reference=MINI)
        ends = {"low": found.mismatch_low, "high": found.mismatch_high}
        mismatch, interval = rate_and_interval(found.signed_mismatch, **ends)
        _, elo, score, expected, sigmoid, hard, signed, n_prompts = rows[found.policy + word]
        assert elo.startswith(f"{found.elo:.0f}")
        assert score == number(found.mean_score)
        assert expected == percent(found.expected_win_rate)
        assert sigmoid == percent(found.sigmoid_win_rate)
        assert hard == percent(found.hard_win_rate)
        assert signed == (UNKNOWN if found.policy == MINI else mismatch + interval)
        assert n_prompts == "60"


def test_the_headline_says_who_is_over_valued_by_how_much_and_how_surely(
    html: str, audit: Audit, calibration: Calibration, pairs: PreferencePairs
) -> None:
    text = Page(html).text
    worst = audit.policies[0]
    offset = calibration.offsets[0]
    ends = {"low": worst.mismatch_low, "high": worst.mismatch_high}
    value, interval = rate_and_interval(worst.signed_mismatch, **ends)
    assert worst.policy == SIMPO
    assert f"95% interval {interval}" in text
    assert value in text
    assert percent(worst.win_rate) in text
    assert (
        number_and_interval(offset.offset, low=offset.offset_low, high=offset.offset_high)[0]
        in text
    )
    assert f"In {pairs.n_flipped} of them the offset flipped" in text
    assert "drawn at random for this test" in text
    for warning in audit.warnings:
        assert warning in text
    assert "charm audit scores.parquet --elo table7" in text


def test_the_page_does_not_claim_what_the_interval_leaves_open(audit: Audit) -> None:
    def page(first: Any, pair: Any) -> str:
        policies = (first, *audit.policies[1:])
        changed = replace(audit, policies=policies, suggested_pair=pair)
        return Page(render_page(audit=changed, title="t", provenance={})).data["h1"]

    worst = audit.policies[0]
    # the interval alone lies above 0; among many policies that is not enough
    unsure = replace(worst, mismatch_low=0.01, over_valued=False, verdict="too few prompts")
    assert "no policy is shown to be over-valued" in page(unsure, audit.suggested_pair)
    assert "over-values no policy" in page(unsure, None)
    assert "over-valued" not in page(worst, audit.suggested_pair)


def test_a_page_of_an_audit_alone_has_no_empty_sections(audit: Audit) -> None:
    text = Page(render_page(audit=audit, title="t", provenance={})).text
    assert "Every policy" in text
    for absent in ("Offsets", "Preference pairs", "How to rebuild", "Calibration"):
        assert absent not in text


def test_a_calibration_by_category_names_its_categories(
    audit: Audit, calibration: Calibration
) -> None:
    by_category = replace(
        calibration,
        offsets=tuple(
            replace(calibration.offsets[0], category=name) for name in ("math", "code <3")
        ),
    )
    page = render_page(audit=audit, calibration=by_category, title="t", provenance={})
    assert [row[1] for row in Page(page).rows if row[0] == SIMPO] == ["math", "code <3"]


def test_ratings_without_intervals_or_names_are_drawn_all_the_same(scores: pl.DataFrame) -> None:
    empty = pl.lit(None, dtype=pl.Float64)
    frame = ELO.frame.with_columns(elo_low=empty, elo_high=empty)
    elo = replace(ELO, frame=frame, board="", date="")
    audit = audit_scores(scores, elo, reference=MINI, n_resamples=10)
    page = Page(render_page(audit=audit, title="t", provenance={}))
    assert "of a board that the table does not name" in page.text
    assert json.loads(page.data["figures"])


# What must not


def test_the_page_loads_nothing_and_stays_small(html: str) -> None:
    page = Page(html)
    assert len(html.encode()) < 3_000_000
    loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [(tag, attrs) for tag, attrs in page.tags if loading & attrs.keys()]
    assert "url(" not in page.data["style"]
    assert "@import" not in page.data["style"]
    policies = [attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs]
    assert len(policies) == 1
    assert (policies[0] or "").startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in (policies[0] or "")


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        HOSTILE,
        "<img src=x onerror=window.hacked=1>",
        '" onmouseover="window.hacked=1',
        "{{ 7 * 7 }}",
        "<!--",
        "مرحبا",
        "a\u2028b",
    ],
)
def test_a_hostile_name_is_text_in_the_table_and_in_the_figures(
    name: str, scores: pl.DataFrame
) -> None:
    hostile = scores.with_columns(pl.col("policy").replace({SIMPO: name}))
    audit = audit_scores(hostile, renamed(ELO, SIMPO, name), reference=MINI, n_resamples=10)
    text = render_page(
        audit=replace(audit, reward_model=name, warnings=(name,)),
        title=name,
        provenance={name: name},
        commands=[name],
    )
    page = Page(text)
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object")]
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert page.data["title"] == name
    assert [row for row in page.rows if row[0].startswith(name)]
    figures = json.loads(page.data["figures"])
    for figure in figures.values():
        assert name in policies_of(figure["wide"])
        assert name in policies_of(figure["narrow"])


def test_importing_the_report_imports_no_chart_library() -> None:
    code = "import sys, charm_rm.report; sys.exit('altair' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Figures


def test_figures_are_written_in_every_format(audit: Audit, after: Audit, tmp_path: Path) -> None:
    paths = save_figures(draw_figures(audit, after), tmp_path / "figures")
    assert len(paths) == 9
    assert {path.suffix for path in paths} == {".svg", ".png", ".pdf"}
    for svg in sorted((tmp_path / "figures").glob("*.svg")):
        text = svg.read_text(encoding="utf-8")
        size = re.search(r'width="([\d.]+)" height="([\d.]+)"', text)
        png = svg.with_suffix(".png").read_bytes()
        assert size is not None
        assert SIMPO in text
        assert png.startswith(b"\x89PNG")
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        assert (width, height) == pytest.approx((2 * float(size[1]), 2 * float(size[2])), abs=1)
        assert len(png) > 20_000
        pdf = svg.with_suffix(".pdf").read_bytes()
        assert pdf.startswith(b"%PDF")
        assert len(pdf) > 5_000


def test_an_existing_figure_is_refused_before_anything_is_drawn(
    audit: Audit, tmp_path: Path
) -> None:
    (tmp_path / "mismatch.svg").write_text("mine")
    with pytest.raises(DataError, match=r"mismatch\.svg: exists already"):
        save_figures(draw_figures(audit), tmp_path, formats=["svg"])
    assert [path.name for path in tmp_path.iterdir()] == ["mismatch.svg"]
    save_figures(draw_figures(audit), tmp_path, formats=["svg"], force=True)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown figure format 'gif'; give some of svg, png, pdf"):
        save_figures({}, tmp_path, formats=["gif"])


def test_over_valued_models_and_the_reference_stand_out_by_colour_and_by_shape(
    audit: Audit,
) -> None:
    chart = elo_scatter(audit).to_dict()
    marks = next(layer for layer in chart["layer"] if layer["mark"]["type"] == "point")["encoding"]
    for channel in ("fill", "shape"):
        scale = marks[channel]["scale"]
        assert {"over-valued", "reference"} <= set(scale["domain"])
        assert len(set(scale["range"])) == len(scale["domain"])


def test_every_policy_of_twenty_is_named_beside_its_point(audit: Audit) -> None:
    chart = elo_scatter(audit).to_dict()
    names = next(layer for layer in chart["layer"] if layer["mark"]["type"] == "text")
    rows = chart["datasets"][names["data"]["name"]]
    assert {row["policy"] for row in rows} == set(TWENTY)


def test_colours_stand_out_on_white_and_on_near_black() -> None:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    white, dark = luminance("#ffffff"), luminance("#14161a")
    for colour, _ in MARKS.values():
        own = luminance(colour)
        assert (white + 0.05) / (own + 0.05) >= 3.0  # WCAG's least for graphics
        assert (own + 0.05) / (dark + 0.05) >= 3.0


# Labels


def boxes_of(points: np.ndarray, names: list[str], labels: list[Label | None]) -> np.ndarray:
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}
    boxes = []
    for (x, y), name, label in zip(points, names, labels, strict=True):
        if label is not None:
            width = text_width(name, font_size=11)
            left = x + label.dx - shift[label.align] * width
            boxes.append([left, y + label.dy - 5.5, left + width, y + label.dy + 5.5])
    return np.array(boxes).reshape(-1, 4)


@given(
    st.lists(
        st.tuples(st.floats(0, 600), st.floats(0, 400), st.text("abcW-1", max_size=30)),
        max_size=12,
    )
)
def test_labels_that_may_be_left_out_hardly_touch_each_other(
    rows: list[tuple[float, float, str]],
) -> None:
    points = np.array([row[:2] for row in rows]).reshape(-1, 2)
    names = [row[2] for row in rows]
    marks = np.hstack([points - 5, points + 5])
    optional = [False] * len(rows)
    places = place_labels(
        points, names, marks=marks, size=(600, 400), font_size=11, must_show=optional
    )
    boxes = boxes_of(points, names, places)
    for at, box in enumerate(boxes):
        low = np.maximum(box[:2], boxes[at + 1 :, :2])
        high = np.minimum(box[2:], boxes[at + 1 :, 2:])
        assert np.prod(np.clip(high - low, 0, None), axis=1).sum() <= 12.0 + 1e-9


def test_a_name_that_must_show_shows_even_where_there_is_no_room() -> None:
    points = np.full((6, 2), 20.0)
    must_show = [True, False, True, False, False, False]
    marks = np.array([[0.0, 0.0, 40.0, 40.0]])
    places = place_labels(
        points, ["a long name"] * 6, marks=marks, size=(40, 40), font_size=11, must_show=must_show
    )
    assert places[0] in CANDIDATES
    assert places[2] in CANDIDATES
    assert places[1] is places[3] is None


# Numbers


def test_numbers_are_rounded_as_finely_as_their_interval_allows() -> None:
    assert rate_and_interval(0.35201, low=0.3177, high=0.3849) == ("+35.2%", "+31.8% to +38.5%")
    assert rate_and_interval(0.35201, low=0.1, high=0.6) == ("+35%", "+10% to +60%")
    assert number_and_interval(-1.2, low=-1.3, high=-1.1)[0] == f"{MINUS}1.20"


@pytest.mark.parametrize("unknown", [None, float("nan"), float("inf")])
def test_an_unknown_number_is_a_dash(unknown: float | None) -> None:
    assert number(unknown) == percent(unknown) == UNKNOWN
