"""The page in a real headless Chromium: it draws, sorts, adapts, and runs nothing from its data."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from builders import MINI, SIMPO, make_scores

from charm_rm.audit import audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import apply_offsets
from charm_rm.pairs import build_pairs
from charm_rm.report.page import render_page

pytestmark = pytest.mark.browser

DEADLINE = 120.0  # seconds for one answer; a loaded machine is no failure
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


class Browser:
    """A page in Chromium, driven by its DevTools protocol over a pipe: JSON, each ended by NUL."""

    def __init__(self, program: str, profile: Path) -> None:
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        script = 'exec "$0" "$@" 3</dev/fd/$COMMANDS 4>/dev/fd/$ANSWERS'
        self.process = subprocess.Popen(
            ["sh", "-c", script, program, *FLAGS, f"--user-data-dir={profile}"],
            env=os.environ | {"COMMANDS": str(from_us), "ANSWERS": str(to_us)},
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self.commands, self.answers = to_browser, from_browser
        self.events: list[dict[str, Any]] = []
        self.buffer = b""
        self.sent = 0
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command of the protocol answers."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + DEADLINE
        while True:
            while b"\0" not in self.buffer:
                ready, _, _ = select.select([self.answers], [], [], end - time.monotonic())
                part = os.read(self.answers, 1 << 20) if ready else b""
                if not part:
                    pytest.fail(f"Chromium gave no answer to {method}")
                self.buffer += part
            first, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(first)
            if answer.get("id") == self.sent:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def of_all(self, selector: str, expression: str) -> list[Any]:
        """The values of an expression in ``e`` over all elements that a selector finds."""
        found = f"document.querySelectorAll({json.dumps(selector)})"
        return list(self.evaluate(f"Array.from({found}, e => {expression})"))

    def open(
        self, path: Path, *, width: int = 1100, height: int = 900, scheme: str = "light"
    ) -> None:
        """Load a page and wait until its figures are drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + DEADLINE
        while self.evaluate("document.documentElement?.dataset.figures") != "done":
            assert time.monotonic() < end, "the figures were not drawn"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """Everything that the console showed, security policy and network included."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        asked = (e for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]

    def press(self, key: str, code: int) -> None:
        """One key, down and up."""
        typed = {"key": key, "windowsVirtualKeyCode": code, "text": "\r" if key == "Enter" else ""}
        self.call("Input.dispatchKeyEvent", type="keyDown", **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def close(self) -> None:
        """End Chromium, and wait for it."""
        self.session = None
        self.call("Browser.close")
        os.close(self.commands)
        os.close(self.answers)
        self.process.wait(timeout=DEADLINE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(
            "no Chromium on this machine: install it (Debian: apt-get install chromium), "
            "or leave these tests out with -m 'not browser'"
        )
    browser = Browser(found, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it, in which one policy has a hostile name."""
    elo = read_elo("table7")
    hostile = {"vicuna-7b": HOSTILE}
    elo = replace(elo, frame=elo.frame.with_columns(pl.col("model").replace(hostile)))
    policies = (SIMPO, MINI, HOSTILE, *elo.models[8:20])
    policies = tuple(dict.fromkeys(policies))
    scores = make_scores(40, policies=policies)
    settings: dict[str, Any] = {"reference": MINI, "n_resamples": 100}
    calibration = calibrate_pair(scores, elo, over_valued=SIMPO, **settings)
    calibrated = apply_offsets(scores, calibration).with_columns(score="calibrated_score")
    path = tmp_path_factory.mktemp("page") / "page.html"
    text = render_page(
        audit=audit_scores(scores, elo, **settings),
        after=audit_scores(calibrated, elo, **settings),
        calibration=calibration,
        pairs=build_pairs(scores, calibration),
        title=HOSTILE,
        provenance={HOSTILE: HOSTILE},
        commands=[f"charm audit {HOSTILE}"],
    )
    path.write_text(text, encoding="utf-8")
    return path


def test_every_figure_is_drawn_without_a_complaint_or_a_request(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    assert browser.of_all(".chart", "e.dataset.state") == ["drawn"] * 3
    assert min(browser.of_all(".chart svg", "e.querySelectorAll('path').length")) > 10
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file:")] == []


def test_nothing_from_the_data_runs_and_hostile_names_are_shown_as_they_are(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert browser.of_all("img", "e.src") == []
    assert HOSTILE in browser.of_all("tbody bdi", "e.textContent")
    assert HOSTILE in browser.of_all("svg text", "e.textContent")


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


def test_the_figures_follow_dark_and_light(browser: Browser, page: Path) -> None:
    def colours() -> set[str]:
        body = browser.of_all("body", "getComputedStyle(e).backgroundColor")
        names = browser.of_all(".chart svg .role-legend-label text", "getComputedStyle(e).fill")
        return {*body, *names}

    browser.open(page, scheme="dark")
    assert colours() == {"rgb(20, 22, 26)", "rgb(232, 234, 237)"}
    browser.open(page, scheme="light")
    assert colours() == {"rgb(255, 255, 255)", "rgb(27, 29, 33)"}


def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, page: Path) -> None:
    browser.open(page, width=375, height=800)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 375
    assert max(browser.of_all(".chart svg", "e.getBoundingClientRect().width")) <= 375
    pixels = "e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize)"
    sizes = browser.of_all(".chart svg g.role-axis-label text", pixels)
    assert min(sizes) >= 6


def test_the_screenshot_is_not_blank(browser: Browser, page: Path) -> None:
    browser.open(page, height=3000)
    shot = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    assert len(shot) > 100_000
