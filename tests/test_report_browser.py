"""The page in a real headless Chromium: it draws, sorts, finds, toggles, and runs nothing of its
data."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmark_builders import group_items
from benchmark_builders import make_scores as make_benchmark_scores
from browser import Browser, find_chromium
from builders import MINI, SIMPO, good_scores, make_responses, make_scores
from style_documents import MARGINS, PAIRS, SPREAD

from charm_rm.audit import audit_scores
from charm_rm.benchmarks.battles import fight_battles
from charm_rm.benchmarks.comparison import compare_scores
from charm_rm.benchmarks.evaluation import evaluate_scores
from charm_rm.benchmarks.reward_bench import REWARD_BENCH
from charm_rm.calibrate import calibrate_pair
from charm_rm.calibrate_many import calibrate_categories, calibrate_jointly
from charm_rm.compare import audit_categories
from charm_rm.cross_validate import cross_validate
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import apply_offsets
from charm_rm.pairs import build_pairs
from charm_rm.report.documents import Benchmarked, read_document
from charm_rm.report.findings import Findings, Missing, Source
from charm_rm.report.flipped import show_pairs
from charm_rm.report.page import render_page
from charm_rm.standings import rank_policies, win_rate_matrices

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
TEXTS = (
    HOSTILE,
    "# Heading\n\n**bold** `code` [link](javascript:window.hacked=1)\n\n| a | b |\n|---|---|",
    "مرحبا بالعالم \u202e detrevni \u2066 x",
    "nul \x00 escape \x1b[31m bell \x07",
    "<svg onload='window.hacked = 1'><style>body { display: none }</style>",
    "lorem ipsum " * 90_000,
)
PHONE = 390
CHARTS = ["mean-score-and-elo", "win-rates", "mismatch", "ranking", "win-rate-matrix"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(find_chromium(), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it, a policy of a hostile name, and responses of hostile texts."""
    elo = read_elo("table7")
    hostile = {"vicuna-7b": HOSTILE}
    elo = replace(elo, frame=elo.frame.with_columns(pl.col("model").replace(hostile)))
    policies = tuple(dict.fromkeys((SIMPO, MINI, HOSTILE, *elo.models[8:20])))
    scores = make_scores(60, policies=policies)
    settings: dict[str, Any] = {"reference": MINI, "n_resamples": 50}
    calibration = calibrate_pair(scores, elo, over_valued=SIMPO, **settings)
    calibrated = apply_offsets(scores, calibration).with_columns(score="calibrated_score")
    responses = make_responses(scores)
    texts = pl.Series([TEXTS[at % len(TEXTS)] + str(at) for at in range(len(responses))])
    pairs = build_pairs(scores, calibration, responses=responses.with_columns(response=texts))
    path = tmp_path_factory.mktemp("page") / "page.html"
    found = Findings(
        title=HOSTILE,
        audit=audit_scores(scores, elo, **settings),
        after=audit_scores(calibrated, elo, **settings),
        calibrations=(calibration,),
        ranking=rank_policies(scores),
        matrices=win_rate_matrices(scores, elo, after=calibrated),
        pairs=show_pairs(pairs.frame, scores=scores),
        facts={HOSTILE: HOSTILE},
        sources=(Source(HOSTILE, HOSTILE),),
        missing=(Missing(HOSTILE, HOSTILE),),
        commands=(f"charm audit {HOSTILE}",),
    )
    path.write_text(render_page(found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of what the first has not: every other kind of figure and table."""
    elo, scores = read_elo("table7"), good_scores()
    settings: dict[str, Any] = {"n_resamples": 20}
    pair: dict[str, Any] = {"over_valued": SIMPO, "reference": MINI}
    joint = calibrate_jointly(scores, elo, reference=MINI)
    after = apply_offsets(scores, joint).with_columns(score="calibrated_score")
    items = group_items({"llmbar-natural": 20, "llmbar-adver-neighbor": 20}, 1, 1)
    tables = [make_benchmark_scores(items, seed=at, name=f"rm-{at}") for at in (0, 1)]
    benchmark: dict[str, Any] = {"benchmark": REWARD_BENCH, "n_resamples": 20}
    compared = compare_scores(tables[1], tables[0], **benchmark)
    steps = [{"step": at, "loss": 1.0 / at, "learning_rate": 1e-6 / at} for at in (1, 2, 3)]
    documents = {"style of pairs": PAIRS, "style of margins": MARGINS, "style spread": SPREAD}
    style = {kind: read_document(d, kind, where=kind) for kind, d in documents.items()}
    logs = (
        read_document({"log_history": steps}, "training log", where=f"{run}/trainer_state.json")
        for run in ("first", "second")
    )
    found = Findings(
        title="Results",
        calibrations=(joint, calibrate_categories(scores, elo, **pair)),
        categories=audit_categories(scores, elo, reference=MINI, **settings),
        battles=(
            fight_battles(scores, elo, opponents=[MINI], after=after, seen=[SIMPO], **settings),
        ),
        benchmarks=(
            Benchmarked(evaluate_scores(tables[0], **benchmark), None),
            Benchmarked(evaluate_scores(tables[1], **benchmark), compared),
        ),
        cross_validations=(cross_validate(scores, elo, **pair, n_folds=2),),
        training=tuple(logs),
        pair_style=(style["style of pairs"],),
        margin_style=(style["style of margins"],),
        style_spread=(style["style spread"],),
    )
    path = tmp_path_factory.mktemp("results") / "page.html"
    path.write_text(render_page(found), encoding="utf-8")
    return path


def settle(browser: Browser, condition: str) -> None:
    """Wait until the page shows what was asked of it."""
    end = time.monotonic() + 60.0
    while not browser.evaluate(condition):
        assert time.monotonic() < end, f"never: {condition}"
        time.sleep(0.05)


def look_for(browser: Browser, text: str) -> str:
    """Type into the search; what the page says of it."""
    browser.evaluate(
        f"search.value = {json.dumps(text)}; "
        "search.dispatchEvent(new Event('input', { bubbles: true })); "
        "document.getElementById('search-result').value = '...'"
    )
    settle(browser, "document.getElementById('search-result').value !== '...'")
    browser.evaluate("steer().then(() => { document.documentElement.dataset.steered = 'yes' })")
    settle(browser, "document.documentElement.dataset.steered === 'yes'")
    browser.evaluate("delete document.documentElement.dataset.steered")
    return str(browser.evaluate("document.getElementById('search-result').value"))


def opacities(browser: Browser, chart: str, policy: str) -> set[float]:
    """Of the marks of one policy in one chart."""
    marks = f'[data-figure="{chart}"] .mark-symbol path, [data-figure="{chart}"] .mark-rect path'
    found = browser.of_all(
        marks, "[e.__data__?.datum?.policy ?? '', Number(e.getAttribute('opacity') ?? 1)]"
    )
    return {round(value, 2) for name, value in found if name == policy}


def shown_in(browser: Browser, chart: str, policy: str) -> list[str]:
    """Verdicts of the points of one policy in one chart."""
    found = browser.of_all(
        f'[data-figure="{chart}"] .mark-symbol path',
        "[e.__data__?.datum?.policy ?? '', e.__data__?.datum?.verdict ?? '']",
    )
    return [verdict for name, verdict in found if name == policy and verdict]


def test_every_figure_is_drawn_without_a_complaint_or_a_request(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    assert browser.of_all(".chart", "e.dataset.figure") == CHARTS
    assert browser.of_all(".chart", "e.dataset.state") == ["drawn"] * len(CHARTS)
    assert min(browser.of_all(".chart svg", "e.querySelectorAll('path').length")) > 10
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file:")] == []
    assert page.stat().st_size < 3_000_000


@pytest.mark.parametrize("width", [1100, PHONE])
def test_every_other_kind_of_figure_is_drawn_at_every_stage(
    browser: Browser, results: Path, width: int
) -> None:
    browser.open(results, width=width)
    figures = browser.of_all(".chart", "e.dataset.figure + ' ' + e.dataset.state")
    names = ("offsets", "joint-residuals", "offsets-by-category", "battles", "battle-mismatch")
    more = ("reward-bench-differences", "style", "style-of-margins", "training")
    assert sorted(figures) == sorted(f"{name} drawn" for name in (*names, *more))
    for stage in ("before", "after", "both"):
        browser.evaluate(f"document.querySelector('input[value={stage}]').click()")
        look_for(browser, SIMPO)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


def test_nothing_from_the_data_runs_and_hostile_names_are_shown_as_they_are(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert browser.of_all("img", "e.src") == []
    assert HOSTILE in browser.of_all("tbody bdi", "e.textContent")
    drawn = browser.of_all("svg text", "e.textContent")  # long names are cut there
    assert [text for text in drawn if text.startswith("</script><script>window.h")]


def test_the_tooltip_shows_numbers_and_a_hostile_name_as_text(browser: Browser, page: Path) -> None:
    browser.open(page, height=4000)
    boxes = browser.of_all(
        '[data-figure=mismatch] path[aria-label*="onerror"]', "e.getBoundingClientRect().toJSON()"
    )
    x, y = (boxes[0][at] + boxes[0][size] / 2 for at, size in (("x", "width"), ("y", "height")))
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tooltip = "document.getElementById('vg-tooltip-element')"
    text = browser.evaluate(f"{tooltip}.textContent")
    assert HOSTILE in text
    assert "Signed mismatch" in text
    assert browser.of_all("#vg-tooltip-element :is(script, img)", "e.outerHTML") == []
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert browser.complaints() == []


def test_a_table_is_sorted_from_the_keyboard(browser: Browser, page: Path) -> None:
    def ratings() -> list[float]:
        return browser.of_all("#policies ~ .scroll tbody tr", "Number(e.cells[1].dataset.value)")

    browser.open(page)
    button = "document.querySelectorAll('#policies ~ .scroll th button')[1]"
    given = ratings()
    browser.evaluate(f"{button}.focus()")
    browser.press("Enter", 13)
    assert ratings() == sorted(given, reverse=True) != given
    assert browser.evaluate(f"{button}.parentElement.ariaSort") == "descending"
    browser.press("Enter", 13)
    assert ratings() == sorted(given)


def test_a_policy_that_is_looked_for_stands_out_in_every_chart_and_table(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    assert look_for(browser, "SIMPO") == "1 of 14 policies stand out"
    for chart in CHARTS[:2] + CHARTS[3:4]:
        assert opacities(browser, chart, SIMPO) == {1.0}, chart
        assert opacities(browser, chart, MINI) == {0.12}, chart
    bright = browser.of_all("#policies ~ .scroll tr[data-policy]:not(.dim)", "e.dataset.policy")
    assert bright == [SIMPO]
    assert look_for(browser, HOSTILE) == "1 of 14 policies stand out"
    assert look_for(browser, "no such model") == "no policy has that name"
    assert opacities(browser, "ranking", MINI) == {1.0}
    assert look_for(browser, "") == ""
    assert browser.complaints() == []


def test_the_scores_before_and_after_are_toggled(browser: Browser, page: Path) -> None:
    def choose(stage: str) -> None:
        browser.evaluate(f"document.querySelector('input[value={stage}]').click()")
        look_for(browser, "")

    browser.open(page)
    both = shown_in(browser, "win-rates", SIMPO)
    assert sorted(both) == ["after calibration", "over-valued"]
    choose("before")
    assert shown_in(browser, "win-rates", SIMPO) == ["over-valued"]
    choose("after")
    assert shown_in(browser, "win-rates", SIMPO) == ["after calibration"]
    assert "over-valued" not in shown_in(browser, "mean-score-and-elo", SIMPO)
    headings = browser.of_all("[data-figure=win-rate-matrix] .role-title-text", "e.textContent")
    assert "Reward model, after" in headings
    assert len(shown_in(browser, "win-rates", MINI)) == 1
    assert browser.complaints() == []


def test_flipped_pairs_are_read_side_by_side_from_the_keyboard(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    n_pairs = browser.evaluate("data.pairs.length")
    seen = []
    browser.evaluate("document.querySelector('.reader').focus()")
    for at in range(n_pairs):
        shown = browser.of_all(".reader-pair .passage", "e.textContent")
        pair = browser.evaluate(f"data.pairs[{at}]")
        for text, side in zip(shown[1:], (pair["chosen"], pair["rejected"]), strict=True):
            assert text.startswith(side["text"])
            assert ("more characters" in text) == (side["n_cut"] > 0)
        scores = browser.of_all(".response .number", "e.textContent")
        assert [text.startswith("Score ") for text in scores] == [True, True]
        assert all("before" in text and "after" in text for text in scores)
        seen += shown[1:]
        browser.press("ArrowRight", 39)
    assert browser.evaluate("document.querySelector('.reader select').value") == str(n_pairs - 1)
    browser.press("ArrowLeft", 37)
    assert browser.evaluate("document.querySelector('.reader select').value") == str(n_pairs - 2)
    for start in (HOSTILE, "# Heading\n\n**bold**", "مرحبا", "nul ␀ escape ␛[31m", "<svg onload"):
        assert any(text.startswith(start) for text in seen), start
    assert browser.of_all(".passage *:not(small)", "e.outerHTML") == []
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert browser.evaluate("getComputedStyle(document.body).display") == "block"
    assert browser.complaints() == []


def test_the_figures_follow_dark_and_light(browser: Browser, page: Path) -> None:
    def colours() -> set[str]:
        body = browser.of_all("body", "getComputedStyle(e).backgroundColor")
        names = browser.of_all(
            "[data-figure=ranking] svg .role-legend-label text", "getComputedStyle(e).fill"
        )
        return {*body, *names}

    browser.open(page, scheme="dark")
    assert colours() == {"rgb(20, 22, 26)", "rgb(232, 234, 237)"}
    browser.open(page, scheme="light")
    assert colours() == {"rgb(255, 255, 255)", "rgb(27, 29, 33)"}


def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, page: Path) -> None:
    browser.open(page, width=PHONE, height=844)
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert max(browser.of_all(".chart svg", "e.getBoundingClientRect().width")) <= PHONE
    shrunk = browser.of_all(
        ".chart svg", "e.getBoundingClientRect().width / Number(e.getAttribute('width'))"
    )
    assert min(shrunk) > 0.9  # texts of 12 pixels stay above 10


def test_the_page_prints_on_white_with_its_figures(browser: Browser, page: Path) -> None:
    browser.open(page, scheme="dark")
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF")
    assert 4 <= printed.count(b"/Type /Page\n") <= 20
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=media)
    assert browser.of_all("body", "getComputedStyle(e).backgroundColor") == ["rgb(255, 255, 255)"]
    assert browser.of_all(".tools", "getComputedStyle(e).display") == ["none"]
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


def test_a_page_without_javascript_says_so_and_keeps_its_tables(
    browser: Browser, page: Path
) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=page.as_uri())
        settle(
            browser, "document.readyState === 'complete' && Boolean(document.querySelector('main'))"
        )
        told = browser.of_all("noscript p", "e.textContent")
        rows = browser.of_all("#policies ~ .scroll tbody tr", "e.cells[2].textContent")
        figures = browser.of_all(".chart *", "e.tagName")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "The figures need JavaScript. The tables hold their numbers." in told
    assert len(rows) == 14
    assert figures == []


def test_the_screenshot_is_not_blank(browser: Browser, page: Path) -> None:
    browser.open(page, height=3000)
    shot = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    assert len(shot) > 100_000
