"""What `charm style` prints, on the page: patterns, margins, spread."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import Run
from style_documents import MARGINS, PAIRS, SPREAD

from charm_rm.report.documents import read_document, recognise
from charm_rm.report.figures_of_style import margin_figure, style_figure


@pytest.mark.parametrize(
    ("document", "kind"),
    [(PAIRS, "style of pairs"), (MARGINS, "style of margins"), (SPREAD, "style spread")],
)
def test_each_document_is_known_by_its_content(document: dict[str, Any], kind: str) -> None:
    assert recognise(document) == kind


def test_the_page_holds_the_numbers_of_the_documents(run_charm: Run) -> None:
    documents = {"pairs.json": PAIRS, "margins.json": MARGINS, "spread.json": SPREAD}
    for name, document in documents.items():
        Path(name).write_text(json.dumps(document), encoding="utf-8")
    ended = run_charm("report", *documents, "--out", "page.html")
    assert ended.status == 0, ended.err
    page = Path("page.html").read_text(encoding="utf-8")
    numbers = [
        1.5,
        30.0,
        900.5,
        4.0,
        0.375,
        1.25,
        0.75,
        0.5,
        0.625,
        -0.25,
        0.0417,
        179,
        -1.375,
        -0.5625,
    ]
    for number in numbers:
        assert f'data-value="{number}"' in page, number
    for section in ("style", "style-of-margins"):
        assert f'data-figure="{section}"' in page
    assert "1.50<small>1.20 to 1.80</small>" in page
    assert "∞<small>3.20 to ∞</small>" in page


def test_a_ratio_without_bound_is_in_the_table_and_not_in_the_figure() -> None:
    style = read_document(PAIRS, "style of pairs", where="pairs.json")
    figure = style_figure(style, width=740).chart.to_dict()
    rows = [row for rows in figure["datasets"].values() for row in rows if "shown" in row]
    assert {row["label"] for row in rows} == {"bold", "length"}
    assert {row["shown"] for row in rows} == {"both before", "both after"}


def test_the_parts_of_a_margin_and_the_rest_are_drawn() -> None:
    style = read_document(MARGINS, "style of margins", where="margins.json")
    figure = margin_figure(style, width=740)
    rows = [row for rows in figure.chart.to_dict()["datasets"].values() for row in rows]
    assert [row["value"] for row in rows if "label" in row] == [0.625, 0.5]
    assert "+1.25 (+1.05 to +1.45) score points" in figure.subtitle


def test_what_charm_style_prints_is_read_as_it_is(run_charm: Run) -> None:
    pairs = ("pairs", "scores.parquet", "--offsets", "offsets.json", "--out", "pairs.parquet")
    assert run_charm(*pairs, "--responses", "responses.parquet").status == 0
    counted = run_charm("style", "pairs.parquet", "--json")
    Path("style.json").write_text(counted.out, encoding="utf-8")
    ended = run_charm("report", "style.json", "--out", "page.html")
    assert ended.status == 0, ended.err
    page = Path("page.html").read_text(encoding="utf-8")
    for row in json.loads(counted.out)["pairs"]["rows"]:
        assert f'data-value="{row["pattern"]}"' in page
        assert f'data-value="{float(row["chosen"])}"' in page
