"""How many requests may be under way at once: found out by trying, within a bound.

Pure bookkeeping: it sends nothing, and is told of replies by whoever does.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

START = 8  # requests under way at first


class AdaptiveLimit:
    """How many requests may be under way: doubles a round at first, then grows by one a round.

    A sign of too much (busy, out of time, slow) takes a part away, at most once a round: requests
    that were sent before the last cut say nothing about it. The first sign ends the doubling.

    Args:
        most: The bound.
        start: Requests at first.

    Example:
        >>> limit = AdaptiveLimit(100)
        >>> for _ in range(8):
        ...     limit.grow()
        >>> limit.size
        16.0
        >>> limit.shrink(sent=1.0, now=2.0)
        >>> limit.size
        8.0
    """

    def __init__(self, most: int, *, start: int = START) -> None:
        self.most = most
        self.size = float(min(start, most))
        self.under_way = 0
        self._doubling = True
        self._last_cut = -1.0
        self._quiet_until = 0.0
        self._changed = asyncio.Condition()

    def grow(self) -> None:
        """Takes note of a timely reply."""
        self.size = min(self.most, self.size + (1.0 if self._doubling else 1.0 / self.size))

    def shrink(self, *, sent: float, now: float, share: float = 0.5) -> None:
        """Takes note of a sign of too much, seen on a request that was sent at ``sent``."""
        if sent > self._last_cut:
            self.size = max(1.0, self.size * share)
            self._last_cut, self._doubling = now, False

    def keep_quiet(self, *, until: float) -> None:
        """Sends nothing more before that time."""
        self._quiet_until = max(self._quiet_until, until)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for a place and holds it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.under_way < int(self.size))
            self.under_way += 1
        try:
            while (pause := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            yield
        finally:
            self.under_way -= 1
            async with self._changed:
                self._changed.notify_all()
