"""Progress of a long run: a bar on a terminal, elsewhere a line a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from charm_rm.cli.console import say, words

if TYPE_CHECKING:
    from charm_rm.models.generating import Progress

SECONDS_BETWEEN_LINES = 60.0  # where standard error is no terminal


@dataclass
class Meter:
    """Tokens of this run against the clock; what an earlier run did counts for nothing.

    Where the number of tokens is not known beforehand, it is conversations or responses; tokens
    that are written on the way are counted beside them.
    """

    show: Callable[["Meter"], None]
    unit: str = "tokens"
    started: float = 0.0
    seconds: float = 0.0
    first: int = 0
    done: int = 0
    total: int = 0
    n_tokens: int = 0
    n_failed: int | None = None

    def report(self, done: int, total: int) -> None:
        """Takes the state from `score_responses`, of which the first call is the start."""
        if not self.started:
            self.started, self.first = time.monotonic(), done
        self.done, self.total, self.seconds = done, total, time.monotonic() - self.started
        self.show(self)

    def report_responses(self, now: "Progress") -> None:
        """The same from `generate_responses`, which counts failures and tokens as well."""
        self.n_tokens, self.n_failed = now.n_tokens, now.n_failed
        self.report(now.done, now.total)

    @property
    def per_second(self) -> float:
        """Units a second of this run; 0 before the first."""
        return (self.done - self.first) / self.seconds if self.seconds else 0.0

    @property
    def speed(self) -> str:
        """Units a second, or tokens where they are counted beside them; and what failed."""
        rate, unit = self.per_second, self.unit
        if self.n_tokens and self.seconds:
            rate, unit = self.n_tokens / self.seconds, "tokens"
        failed = "" if self.n_failed is None else f", {self.n_failed:,} failed"
        return (f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}") + f" {unit}/s{failed}"


@contextmanager
def meter(unit: str = "tokens") -> Iterator[Meter]:
    """Progress by tokens (or another unit): a bar on a terminal, elsewhere a line a minute."""
    console = words()
    if not console.is_terminal:
        yield Meter(show=_line_a_minute(), unit=unit)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        TaskProgressColumn(),
        *((MofNCompleteColumn(),) if unit == "responses" else ()),
        TextColumn("{task.fields[speed]}, left"),
        # Chunks take seconds: a short memory would see too few of them.
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=300, transient=True) as progress:
        task = progress.add_task("", total=None, speed=f"0 {unit}/s", start=False)

        def show(meter: Meter) -> None:
            if meter.done == meter.first:
                progress.reset(task, total=meter.total, completed=meter.done, speed=meter.speed)
            progress.update(task, total=meter.total, completed=meter.done, speed=meter.speed)

        yield Meter(show=show, unit=unit)


def _line_a_minute() -> Callable[[Meter], None]:
    next_line = 0.0

    def show(meter: Meter) -> None:
        nonlocal next_line
        if meter.seconds < next_line:
            return
        next_line = meter.seconds + SECONDS_BETWEEN_LINES
        line = f"{meter.done:,} of {meter.total:,} {meter.unit}"
        if speed := meter.per_second:
            minutes = (meter.total - meter.done) / speed / 60
            line += f", {meter.speed}, about {minutes:,.0f} minutes left"
        say(line)

    return show
