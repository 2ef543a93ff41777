"""What `charm style` prints, on the page: patterns, margins, spread."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import MINI, SIMPO, Run

from charm_rm.report.documents import read_document, recognise
from charm_rm.report.figures_of_style import margin_figure, style_figure


def row(pattern: str, chosen: float, rejected: float, **given: Any) -> dict[str, Any]:
    ratio = chosen / rejected if rejected else None
    shares = {"chosen_share": chosen / 100, "rejected_share": rejected / 100}
    ends = {"ratio": ratio, "low": 0.8 * (ratio or 4.0), "high": 1.2 * ratio if ratio else None}
    return {"pattern": pattern, "chosen": chosen, "rejected": rejected, **shares, **ends, **given}


def table(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"n_pairs": 100, "n_prompts": 90, "rows": list(rows)}


PAIRS: dict[str, Any] = {
    "pairs": table(row("bold", 30, 20), row("emoji", 5, 0), row("length", 900.5, 800.5)),
    "before": table(row("bold", 40, 10), row("emoji", 5, 0), row("length", 990.5, 700.5)),
    "changes": [
        {"pattern": name, "change": change, "low": 0.2, "high": 0.9}
        for name, change in (("bold", 0.375), ("emoji", None), ("length", 0.795))
    ],
    "n_flipped": 12,
}
MARGINS: dict[str, Any] = {
    "reward_model": "toy-rm",
    "reference": MINI,
    "policies": [
        {
            "policy": SIMPO,
            "n_prompts": 80,
            "mean_margin": {"value": 1.25, "low": 1.05, "high": 1.45},
            "explained": {"value": 0.75, "low": 0.55, "high": 0.95},
            "rest": {"value": 0.5, "low": 0.3, "high": 0.7},
            "r_squared": 0.375,
            "parts": [{"pattern": "bold", "part": 0.625, "low": 0.5, "high": 0.75, "slope": 2.0}],
        }
    ],
    "n_resamples": 1000,
    "seed": 0,
}
SPREAD: dict[str, Any] = {
    "reward_model": "toy-rm",
    "n_items": {"chat": 65, "code": 114},
    "sides": [
        {"side": side, "means": {"concise": -0.25, "markdown": 0.25}, "variance": 0.0417}
        | {"low": 0.01, "high": 0.09}
        for side in ("chosen", "rejected")
    ],
}


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
    numbers = [1.5, 30.0, 900.5, 4.0, 0.375, 1.25, 0.75, 0.5, 0.625, -0.25, 0.0417, 179]
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
