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

from charm_rm.audit import Audit, audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import EloTable, read_elo
from charm_rm.data.offsets import Calibration, apply_offsets
from charm_rm.data.tables import DataError
from charm_rm.pairs import build_pairs
from charm_rm.report.figures import draw_figures
from charm_rm.report.files import save_figures
from charm_rm.report.findings import Findings, Missing, Source
from charm_rm.report.flipped import show_pairs
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
from charm_rm.standings import rank_policies, win_rate_matrices

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
        self.values: dict[str, dict[str, list[float]]] = {}  # by table and row, in full
        self._table = self._row = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        value = dict(attrs).get("data-value")
        if tag == "table":
            self._table = dict(attrs)["aria-label"] or ""
        if tag == "tr":
            self.rows.append([])
        if tag == "th" and value is not None:
            self._row = value
        if tag == "td" and value:
            row = self.values.setdefault(self._table, {}).setdefault(self._row, [])
            row.append(float(value))
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
            self.data["island"] = data
        if {"td", "th"} & set(self._inside):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.words)


def renamed(elo: EloTable, old: str, new: str) -> EloTable:
    return replace(elo, frame=elo.frame.with_columns(pl.col("model").replace({old: new})))


def rows_of(chart: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for values in chart["datasets"].values() for row in values]


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
def findings(
    scores: pl.DataFrame, audit: Audit, after: Audit, calibration: Calibration
) -> Findings:
    calibrated = apply_offsets(scores, calibration).with_columns(score="calibrated_score")
    return Findings(
        title="A test",
        audit=audit,
        after=after,
        calibrations=(calibration,),
        ranking=rank_policies(scores),
        matrices=win_rate_matrices(scores, ELO, after=calibrated),
        pairs=show_pairs(build_pairs(scores, calibration).frame, scores=scores),
        facts={"Scores": "drawn at random for this test"},
        sources=(Source("scores.parquet", "scores, 1,200 rows", "ab" * 32),),
        missing=(Missing("Benchmarks", "charm evaluate rm-bench"),),
        commands=("charm audit scores.parquet --elo table7", "charm report . --out page.html"),
    )


@pytest.fixture(scope="module")
def html(findings: Findings) -> str:
    return render_page(findings)


@pytest.fixture(scope="module")
def charts(findings: Findings) -> dict[str, Any]:
    return {name: figure.chart.to_dict() for name, figure in draw_figures(findings).items()}


# What stands on the page


def test_every_number_of_the_audits_table_is_that_of_its_json(html: str, audit: Audit) -> None:
    document = json.loads(json.dumps(audit.to_json()))
    rows = {row[0]: row for row in Page(html).rows}
    values = Page(html).values
    for at, found in enumerate(audit.policies):
        entry = document["policies"][at]
        row = rows[found.policy + verdict(found, reference=MINI)]
        fields = ("elo", "mean_score", "expected_win_rate", "sigmoid_win_rate", "hard_win_rate")
        held = values["Every policy"][found.policy]
        assert held == [entry[field] for field in (*fields, "signed_mismatch", "n_prompts")]
        ends = {"low": found.mismatch_low, "high": found.mismatch_high}
        shown = "".join(rate_and_interval(found.signed_mismatch, **ends))
        assert row[3] == percent(found.expected_win_rate)
        assert row[6] == (UNKNOWN if found.policy == MINI else shown)


def test_every_number_of_the_ranking_and_the_offsets_is_that_of_their_json(
    html: str, findings: Findings, calibration: Calibration
) -> None:
    assert findings.ranking is not None
    values = Page(html).values
    ranked = values["Policies by mean score"]
    for at, entry in enumerate(findings.ranking.to_json()["policies"], 1):
        assert ranked[entry["policy"]] == [at, entry["mean_score"], entry["n_prompts"]]
    offset = calibration.to_json()["offsets"][0]
    fields = ("offset", "expected_win_rate", "win_rate_after", "hard_win_rate_after")
    wanted = [offset[field] for field in (*fields, "mismatch_after", "n_prompts")]
    assert values["Offsets 1"][SIMPO] == wanted


def test_the_figures_hold_the_numbers_of_the_json(
    charts: dict[str, Any], audit: Audit, findings: Findings
) -> None:
    bars = {row["policy"]: row for row in rows_of(charts["mismatch"]) if "mismatch" in row}
    for entry in audit.policies:
        if entry.policy not in (MINI, SIMPO):
            assert bars[entry.policy]["mismatch"] == entry.signed_mismatch
    assert findings.matrices is not None
    matrices = findings.matrices
    cells = {
        (row["policy"], row["other"]): row
        for row in rows_of(charts["win-rate-matrix"])
        if "other" in row
    }
    assert len(cells) == 20 * 19
    for (policy, other), cell in cells.items():
        i, j = matrices.policies.index(policy), matrices.policies.index(other)
        assert cell["before"] == matrices.before[i][j]
        assert matrices.after is not None
        assert cell["after"] == matrices.after[i][j]
        assert cell["expected"] == matrices.expected[i][j]


def test_every_figure_has_a_caption_and_its_sample_size(findings: Findings) -> None:
    figures = draw_figures(findings)
    assert list(figures) == [
        "mean-score-and-elo",
        "win-rates",
        "mismatch",
        "ranking",
        "win-rate-matrix",
    ]
    for figure in figures.values():
        assert "60" in figure.subtitle
        assert "20 policies" in figure.subtitle
        assert len(figure.caption) > 80


def test_the_headline_says_who_is_over_valued_by_how_much_and_how_surely(
    html: str, audit: Audit, calibration: Calibration, findings: Findings
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
    assert findings.pairs is not None
    assert f"the offset flipped {findings.pairs.n_flipped} :" in text
    assert "drawn at random for this test" in text
    for warning in audit.warnings:
        assert warning in text
    assert "charm audit scores.parquet --elo table7" in text


def test_the_page_does_not_claim_what_the_interval_leaves_open(audit: Audit) -> None:
    def page(first: Any, pair: Any) -> str:
        policies = (first, *audit.policies[1:])
        changed = replace(audit, policies=policies, suggested_pair=pair)
        return Page(render_page(Findings("t", audit=changed))).data["h1"]

    worst = audit.policies[0]
    # the interval alone lies above 0; among many policies that is not enough
    unsure = replace(worst, mismatch_low=0.01, over_valued=False, verdict="too few prompts")
    assert "no policy is shown to be over-valued" in page(unsure, audit.suggested_pair)
    assert "over-values no policy" in page(unsure, None)
    assert "over-valued" not in page(worst, audit.suggested_pair)


def test_a_page_of_an_audit_alone_has_no_empty_sections(audit: Audit) -> None:
    text = Page(render_page(Findings("t", audit=audit))).text
    assert "Every policy" in text
    for absent in ("Offsets", "Preference pairs", "How to rebuild", "Calibration", "Files"):
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
    page = render_page(Findings("t", audit=audit, calibrations=(by_category,)))
    assert [row[1] for row in Page(page).rows if row[0] == SIMPO] == ["math", "code <3"]


def test_ratings_without_intervals_or_names_are_drawn_all_the_same(scores: pl.DataFrame) -> None:
    empty = pl.lit(None, dtype=pl.Float64)
    frame = ELO.frame.with_columns(elo_low=empty, elo_high=empty)
    elo = replace(ELO, frame=frame, board="", date="")
    audit = audit_scores(scores, elo, reference=MINI, n_resamples=10)
    page = Page(render_page(Findings("t", audit=audit)))
    assert "of a board that the table does not name" in page.text
    assert json.loads(page.data["island"])["figures"]


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
    [HOSTILE, '" onmouseover="window.hacked=1', "{{ 7 * 7 }}<!--", "مرحبا a\u2028b"],
)
def test_a_hostile_name_is_text_in_the_table_and_in_the_figures(
    name: str, scores: pl.DataFrame
) -> None:
    hostile = scores.with_columns(pl.col("policy").replace({SIMPO: name}))
    audit = audit_scores(hostile, renamed(ELO, SIMPO, name), reference=MINI, n_resamples=10)
    found = Findings(
        title=name,
        audit=replace(audit, reward_model=name, warnings=(name,)),
        ranking=rank_policies(hostile),
        facts={name: name},
        sources=(Source(name, name, command=name),),
        missing=(Missing(name, name),),
        commands=(name,),
    )
    page = Page(render_page(found))
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object")]
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert page.data["title"] == name
    assert [row for row in page.rows if row[0].startswith(name)]
    island = json.loads(page.data["island"])
    assert name in {
        row["policy"] for rows in island["datasets"].values() for row in rows if "policy" in row
    }


def test_importing_the_report_imports_no_chart_library() -> None:
    code = "import sys, charm_rm.report; sys.exit('altair' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Figures


def test_figures_are_written_in_every_format(findings: Findings, tmp_path: Path) -> None:
    drawn = {name: figure.chart for name, figure in draw_figures(findings).items()}
    chosen = {name: drawn[name] for name in ("mismatch", "win-rate-matrix")}
    paths = save_figures(chosen, tmp_path / "figures")
    assert len(paths) == 6
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
    findings: Findings, tmp_path: Path
) -> None:
    drawn = {name: figure.chart for name, figure in draw_figures(findings).items()}
    chosen = {name: drawn[name] for name in ("ranking", "mismatch")}
    (tmp_path / "mismatch.svg").write_text("mine")
    with pytest.raises(DataError, match=r"mismatch\.svg: exists already"):
        save_figures(chosen, tmp_path, formats=["svg"])
    assert [path.name for path in tmp_path.iterdir()] == ["mismatch.svg"]
    save_figures(chosen, tmp_path, formats=["svg"], force=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown figure format 'gif'; give some of svg, png, pdf"):
        save_figures({}, tmp_path, formats=["gif"])


def test_over_valued_models_and_the_reference_stand_out_by_colour_and_by_shape(
    charts: dict[str, Any],
) -> None:
    layers = charts["mean-score-and-elo"]["layer"]
    marks = next(layer for layer in layers if layer["mark"]["type"] == "point")["encoding"]
    for channel in ("fill", "shape"):
        scale = marks[channel]["scale"]
        assert {"over-valued", "reference"} <= set(scale["domain"])
        assert len(set(scale["range"])) == len(scale["domain"])


def test_every_policy_of_twenty_is_named_beside_its_point(charts: dict[str, Any]) -> None:
    chart = charts["mean-score-and-elo"]
    names = next(layer for layer in chart["layer"] if layer["mark"]["type"] == "text")
    rows = chart["datasets"][names["data"]["name"]]
    assert {row["policy"] for row in rows} == set(TWENTY)


def test_a_policy_that_calibration_moved_is_drawn_at_both_places_and_named_at_one_at_a_time(
    charts: dict[str, Any],
) -> None:
    rows = [row for row in rows_of(charts["win-rates"]) if row.get("policy") == SIMPO]
    points = {row["shown"]: row["win_rate"] for row in rows if "verdict" in row}
    assert set(points) == {"both before", "both after"}
    assert points["both after"] < points["both before"]
    assert {row["shown"] for row in rows if "dx" in row} == {"both before", "after"}


def test_the_charts_can_be_steered_by_policy_and_stage(charts: dict[str, Any]) -> None:
    for name, chart in charts.items():
        assert {param["name"] for param in chart["params"]} == {"highlight", "stage"}, name
        assert "indexof(highlight, datum.policy)" in json.dumps(chart), name


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


# Numbers


def test_numbers_are_rounded_as_finely_as_their_interval_allows() -> None:
    assert rate_and_interval(0.35201, low=0.3177, high=0.3849) == ("+35.2%", "+31.8% to +38.5%")
    assert rate_and_interval(0.35201, low=0.1, high=0.6) == ("+35%", "+10% to +60%")
    assert number_and_interval(-1.2, low=-1.3, high=-1.1)[0] == f"{MINUS}1.20"


@pytest.mark.parametrize("unknown", [None, float("nan"), float("inf")])
def test_an_unknown_number_is_a_dash(unknown: float | None) -> None:
    assert number(unknown) == percent(unknown) == UNKNOWN
