"""A real headless Chromium for the tests of pages, driven over a pipe, without a library."""

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

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


def find_chromium() -> str:
    """The program, or a loud failure."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(
            "no Chromium on this machine: install it (Debian: apt-get install chromium), "
            "or leave these tests out with -m 'not browser'"
        )
    return found


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
