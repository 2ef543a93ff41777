"""Progress of a long run: a bar on a terminal, elsewhere a line a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from charm_rm.cli.console import say, words

SECONDS_BETWEEN_LINES = 60.0  # where standard error is no terminal


@dataclass
class Meter:
    """Tokens of this run against the clock; what an earlier run did counts for nothing.

    Where a server makes the tokens, their number is not known beforehand: conversations then.
    """

    show: Callable[["Meter"], None]
    unit: str = "tokens"
    started: float = 0.0
    seconds: float = 0.0
    first: int = 0
    done: int = 0
    total: int = 0

    def report(self, done: int, total: int) -> None:
        """Takes the state from `score_responses`, of which the first call is the start."""
        if not self.started:
            self.started, self.first = time.monotonic(), done
        self.done, self.total, self.seconds = done, total, time.monotonic() - self.started
        self.show(self)

    @property
    def per_second(self) -> float:
        """Units a second of this run; 0 before the first."""
        return (self.done - self.first) / self.seconds if self.seconds else 0.0


@contextmanager
def meter(unit: str = "tokens") -> Iterator[Meter]:
    """Progress by tokens (or another unit): a bar on a terminal, elsewhere a line a minute."""
    console = words()
    if not console.is_terminal:
        yield Meter(show=_line_a_minute(), unit=unit)
        return
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(f"{{task.fields[speed]:,.0f}} {unit}/s, left"),
        # Chunks take seconds: a short memory would see too few of them.
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=300, transient=True) as progress:
        task = progress.add_task("", total=None, speed=0.0, start=False)

        def show(meter: Meter) -> None:
            if meter.done == meter.first:
                progress.reset(task, total=meter.total, completed=meter.done, speed=0.0)
            progress.update(task, total=meter.total, completed=meter.done, speed=meter.per_second)

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
            line += f", {speed:,.0f} {meter.unit}/s, about {minutes:,.0f} minutes left"
        say(line)

    return show
