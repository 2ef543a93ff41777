"""An asynchronous engine as a plain iterator: what it finishes, in the order it is finished."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


def stream(work: Callable[[Callable[[T], None]], Awaitable[None]]) -> Iterator[T]:
    """What a coroutine hands out, as it comes.

    The coroutine runs in a thread of its own, so that it goes on while the caller is busy with
    what it has got, and a loop that runs already (a notebook's) is no obstacle. It is cancelled
    when the iterator is closed.

    Args:
        work: Given a function to hand results to, does all the work.

    Yields:
        What was handed out.

    Raises:
        BaseException: What the coroutine raises, after all that it had handed out by then.

    Example:
        >>> async def count(hand_out):
        ...     for n in range(3):
        ...         hand_out(n)
        >>> list(stream(count))
        [0, 1, 2]
    """
    results: queue.SimpleQueue[_Item[T] | BaseException | None] = queue.SimpleQueue()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None] | None]] = Future()

    async def begin() -> None:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        await work(lambda value: results.put(_Item(value)))

    def run() -> None:
        try:
            asyncio.run(begin())
        except BaseException as error:
            results.put(error)
        else:
            results.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while isinstance(result := results.get(), _Item):
            yield result.value
        if result is not None:
            raise result
    finally:
        loop, task = begun.result()
        with suppress(RuntimeError):  # the loop is closed: all is done
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
