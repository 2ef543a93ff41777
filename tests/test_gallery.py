"""The gallery of the docs is what the bundled scores give."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

RECIPE = Path(__file__).parents[1] / "recipes" / "gallery.py"


@pytest.fixture(scope="module")
def gallery() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def test_the_gallery_is_what_the_bundled_scores_give(
    gallery: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(RECIPE), "--check"])
    assert gallery["main"]() == 0, capsys.readouterr().err


def test_a_text_that_changed_is_found_and_one_that_moved_is_not(gallery: dict[str, Any]) -> None:
    texts = gallery["texts"]
    old = '<svg><text x="1">gemma</text><text>0.86</text></svg>'
    assert texts(old) == texts(old.replace('x="1"', 'x="2"')) == ["gemma", "0.86"]
    assert texts(old) != texts(old.replace("0.86", "0.87"))
