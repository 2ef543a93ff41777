"""Requests to a model server: many at once, repeated while a fault may pass, each answered once.

How many are under way adapts: it grows with every reply, and shrinks when the server says that it
is busy (429, 503), a request runs out of time, or a reply is slow. A request that failed for a
passing reason is sent again after a pause that doubles, drawn at random so that many clients do
not return together, and never shorter than the server's ``Retry-After``. Everything is bounded:
requests under way, repetitions, each pause, and the time that one request may take.

The key comes from an environment variable, CHARM_API_KEY unless the endpoint names another, and
goes to that server alone; it is written nowhere, and redirections are not followed. This module
knows nothing of scores: what a reply means is the caller's.
"""

import asyncio
import math
import os
import random
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2

from charm_rm.data.tables import DataError
from charm_rm.models.adaptive_limit import AdaptiveLimit
from charm_rm.models.refusals import seconds_to_wait, words_of_refusal

KEY_VARIABLE = "CHARM_API_KEY"
CONCURRENCY = 64  # most requests under way at once
MAX_RETRIES = 8
TIMEOUT = 180.0  # seconds that one request may take, from its start to its last byte
SLOW_REPLY = 30.0  # seconds; slower than this, the server has too much in its queue
MUTE_TRIES = 3  # of a request that runs out of time on a server that has never answered
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds before a request is repeated
LONGEST_WISH = 120.0  # seconds of Retry-After that are waited for
WORDS_KEPT = 300  # characters of what a server says that go into a message
PASSING = {408, 425, 429, 500, 502, 503, 504, 529}  # statuses after which a request is repeated
BUSY = {429, 503, 529}
DIVISIBLE = {400, 413, 422, 500}  # may concern one item of the many in a request
ROUTES = re.compile(r"(/v1)?(/(classify|pooling|get_reward|chat/completions|completions))?/*$")

T = TypeVar("T")
Job = TypeVar("Job")


class BadReplyError(Exception):
    """A reply of status 200 that can't be used; the request is repeated."""


class RequestFailedError(DataError):
    """A request that was refused, or that failed as often as it may.

    Attributes:
        status: HTTP status of the last reply; None when none came.
        divisible: Whether a smaller request might pass.
    """

    def __init__(self, message: str, *, status: int | None, divisible: bool) -> None:
        super().__init__(message)
        self.status = status
        self.divisible = divisible

    def named(self, name: str) -> "RequestFailedError":
        """The same, with what was asked about in front."""
        return RequestFailedError(f"{name}: {self}", status=self.status, divisible=self.divisible)


class _PassingError(Exception):
    """A failure after which the same request may pass."""

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        wish: float = 0.0,
        busy: bool = False,
        patience: float = math.inf,
    ) -> None:
        super().__init__(reason)
        self.status, self.wish, self.busy, self.patience = status, wish, busy, patience


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served, and how hard to try.

    Attributes:
        url: Root address, without ``/v1``; see `parse_address`.
        concurrency: Most requests under way at once.
        max_retries: Repetitions of a request that failed for a passing reason.
        timeout: Seconds that one request may take.
        slow_reply: Seconds after which a reply is slow; at most a quarter of the time-out.
        key_variable: Environment variable that holds the key, if it wants one.
    """

    url: str
    concurrency: int = CONCURRENCY
    max_retries: int = MAX_RETRIES
    timeout: float = TIMEOUT
    slow_reply: float = SLOW_REPLY
    key_variable: str = KEY_VARIABLE


def parse_address(url: str, *, key_variable: str = KEY_VARIABLE) -> str:
    """The root of a server's address, or one line that says what is wrong with it.

    Args:
        url: As a user gives it, with or without a route such as ``/v1`` or ``/classify``.
        key_variable: Environment variable that a key belongs into.

    Returns:
        Scheme, host, port and any prefix, without a slash at the end.

    Raises:
        DataError: If it has no ``http://`` or ``https://``, no host, or holds a key.

    Example:
        >>> parse_address("http://127.0.0.1:8000/v1/")
        'http://127.0.0.1:8000'
    """
    url = url.strip()
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise DataError(f"{url!r}: not an address ({error}); give http://HOST:PORT") from error
    if parsed.userinfo or parsed.query:
        raise DataError(
            f"the address of {parsed.host or 'the server'} holds a password or a query, which "
            f"would be written into the results; put the key into {key_variable}"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise DataError(f"{url!r}: no http:// or https:// in front of a host; give both")
    return ROUTES.sub("", url)


class Connection:
    """An open pool of connections to one server; made by `connect`."""

    def __init__(self, endpoint: Endpoint, client: httpx2.AsyncClient, key: str | None) -> None:
        self.endpoint = endpoint
        self.limit = AdaptiveLimit(endpoint.concurrency)
        self._client = client
        self._key = key
        self._n_answers = 0
        self._chance = random.Random()  # decides pauses alone, so that clients do not keep step

    async def send(
        self,
        path: str,
        read: Callable[[Any, str], T],
        *,
        body: Callable[[str], Any] | None = None,
    ) -> T:
        """What a reply means, once there is one that can be used.

        Args:
            path: Route, such as ``/classify``.
            read: Reply (parsed JSON) and request id -> result; raises `BadReplyError` when the
                reply can't be used.
            body: Request id -> JSON body of a POST; without it, a GET. Every attempt has an id of
                its own, since the server may still be at work on the one before.

        Raises:
            RequestFailedError: If the server refuses, or all attempts failed.
        """
        n_failed = n_counted = 0
        answers = self._n_answers
        while True:
            try:
                return await self._attempt(path, read, body)
            except _PassingError as failure:
                n_failed += 1
                # A server that turns this one away and serves others is not failing: wait on.
                waiting = failure.status in BUSY and self._n_answers > answers
                n_counted += 0 if waiting else 1
                answers = self._n_answers
                hopeless = not self._n_answers and n_failed >= failure.patience
                if hopeless or n_counted > self.endpoint.max_retries:
                    raise self._gave_up(failure, n_failed) from failure
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(n_failed - 1, 30))
                await asyncio.sleep(max(failure.wish, pause * self._chance.uniform(0.5, 1.0)))

    async def _attempt(
        self, path: str, read: Callable[[Any, str], T], body: Callable[[str], Any] | None
    ) -> T:
        request_id = uuid.uuid4().hex
        async with self.limit.place():
            sent = time.monotonic()
            try:
                result = read(await self._exchange(path, request_id, body), request_id)
            except _PassingError as failure:
                now = time.monotonic()
                if failure.busy:
                    self.limit.shrink(sent=sent, now=now)
                self.limit.keep_quiet(until=now + failure.wish)
                raise
            except BadReplyError as error:
                said = self._quote(f"unusable reply: {error}")
                raise _PassingError(said, status=200) from error
            now = time.monotonic()
            if now - sent > min(self.endpoint.slow_reply, self.endpoint.timeout / 4):
                self.limit.shrink(sent=sent, now=now, share=0.7)
            else:
                self.limit.grow()
            return result

    async def _exchange(self, path: str, request_id: str, body: Callable[[str], Any] | None) -> Any:
        """One request and its reply as parsed JSON; every failure has a class of its own."""
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                response = await self._client.request(
                    "POST" if body else "GET",
                    self.endpoint.url + path,
                    json=body(request_id) if body else None,
                )
        except TimeoutError:
            reason = f"no reply in {self.endpoint.timeout:g} s"
            raise _PassingError(reason, busy=True, patience=MUTE_TRIES) from None
        except (httpx2.RequestError, OSError) as error:
            reason = self._quote(f"{type(error).__name__}: {error}").rstrip(": ")
            patience = 1 if isinstance(error, httpx2.ConnectError) else math.inf
            raise _PassingError(f"no connection ({reason})", patience=patience) from error
        if response.status_code != 200:
            raise self._bad_status(response, path)
        self._n_answers += 1
        try:
            return response.json()
        except (ValueError, RecursionError):
            raise _PassingError("unusable reply: not whole JSON", status=200) from None

    def _bad_status(self, response: httpx2.Response, path: str) -> Exception:
        status = response.status_code
        said = self._quote(words_of_refusal(response))
        if status in PASSING:
            wish = seconds_to_wait(response.headers.get("retry-after"))
            if wish <= LONGEST_WISH:
                return _PassingError(
                    f"status {status} ({said})", status=status, wish=wish, busy=status in BUSY
                )
            cure = f"it asks to wait {wish:,.0f} s; run again then, what is done is kept"
        elif status in (401, 403):
            cure = (
                f"it does not take the key; set {self.endpoint.key_variable} to one that it takes"
                if self._key
                else f"it asks for a key; set {self.endpoint.key_variable}"
            )
        elif status == 404:
            cure = "no such route or model there; check the address and --model"
        elif 300 <= status < 400:
            there = self._quote(str(response.headers.get("location")))
            cure = f"it points to {there}; give that address"
        else:
            cure = "check the model and the server's options"
        return RequestFailedError(
            f"{self.endpoint.url}{path}: status {status} ({said}); {cure}",
            status=status,
            divisible=status in DIVISIBLE,
        )

    def _quote(self, said: str) -> str:
        """A server's words as one short line without the key, fit to be printed."""
        line = " ".join("".join(one if one.isprintable() else " " for one in said).split())
        return (line.replace(self._key, "***") if self._key else line)[:WORDS_KEPT]

    def _gave_up(self, failure: _PassingError, n_tries: int) -> RequestFailedError:
        tries = f" in the last of {n_tries} tries" if n_tries > 1 else ""
        return RequestFailedError(
            f"{self.endpoint.url}: {failure}{tries}; check the address and the server, and run "
            "again to go on from here",
            status=failure.status,
            divisible=failure.status in DIVISIBLE | {200},
        )


@asynccontextmanager
async def connect(endpoint: Endpoint) -> AsyncIterator[Connection]:
    """A pool of connections for one run; they close when the block ends.

    Args:
        endpoint: Where, and how hard to try.

    Yields:
        The connection.

    Raises:
        ValueError: If the concurrency or the time-out is not positive, or the key can't stand in
            a header.

    Example:
        >>> async def most_at_first():
        ...     async with connect(Endpoint("http://127.0.0.1:8000", concurrency=3)) as connection:
        ...         return connection.limit.size
        >>> run(most_at_first())
        3.0
    """
    if endpoint.concurrency < 1 or endpoint.timeout <= 0:
        raise ValueError(
            f"concurrency is {endpoint.concurrency}, time-out {endpoint.timeout:g} s; "
            "both must be positive"
        )
    key = os.environ.get(endpoint.key_variable, "").strip() or None
    if key and not (key.isascii() and key.isprintable()):
        raise ValueError(f"{endpoint.key_variable} holds characters that no key has; set it again")
    limits = httpx2.Limits(
        max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency
    )
    async with httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=limits,
        timeout=None,  # one time-out over the whole request, in `Connection`
    ) as client:
        yield Connection(endpoint, client, key)


async def work_through(
    jobs: Iterable[Job],
    work: Callable[[Job], Awaitable[Iterable[Job]]],
    *,
    n_workers: int,
) -> None:
    """Works on many jobs at once until none is left; the first failure ends all others.

    Args:
        jobs: What there is to do, in the order in which it is begun.
        work: Does one job and returns the jobs that are to be done in its place, if any.
        n_workers: Jobs under way at once.

    Example:
        >>> done = []
        >>> async def halve(size):
        ...     if size > 1:
        ...         return [size // 2, size // 2]
        ...     done.append(size)
        ...     return []
        >>> asyncio.run(work_through([4, 2], halve, n_workers=3))
        >>> done
        [1, 1, 1, 1, 1, 1]
    """
    queue = deque(jobs)

    async def worker() -> None:
        while queue:
            queue.extend(await work(queue.popleft()))

    tasks = [asyncio.ensure_future(worker()) for _ in range(n_workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already, as in a notebook.

    Example:
        >>> async def answer():
        ...     return 42
        >>> run(answer())
        42
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
