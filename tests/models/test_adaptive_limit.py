"""How many requests may be under way: grows while it goes well, shrinks at a sign of too much."""

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from charm_rm.models.adaptive_limit import START, AdaptiveLimit


def test_it_doubles_with_each_round_of_replies_up_to_the_bound() -> None:
    limit = AdaptiveLimit(40)
    sizes = [limit.size]
    for _ in range(4):
        for _ in range(int(limit.size)):
            limit.grow()
        sizes.append(limit.size)
    assert sizes == [START, 2 * START, 4 * START, 40, 40]


def test_after_the_first_cut_it_grows_by_one_a_round() -> None:
    limit = AdaptiveLimit(100, start=20)
    limit.shrink(sent=1.0, now=2.0)
    assert limit.size == 10
    for _ in range(10):
        limit.grow()
    assert 10.9 < limit.size < 11


def test_requests_sent_before_a_cut_do_not_cut_again() -> None:
    limit = AdaptiveLimit(100, start=64)
    for _ in range(20):
        limit.shrink(sent=1.0, now=2.0)
    assert limit.size == 32
    limit.shrink(sent=2.5, now=3.0)
    assert limit.size == 16


@given(st.lists(st.booleans()), st.integers(1, 50))
def test_it_stays_between_one_and_the_bound(replies: list[bool], most: int) -> None:
    limit = AdaptiveLimit(most)
    for at, good in enumerate(replies):
        limit.grow() if good else limit.shrink(sent=at, now=at)
        assert 1 <= limit.size <= most


def test_no_more_are_under_way_than_it_allows_and_all_get_their_turn() -> None:
    limit = AdaptiveLimit(3)
    seen = []

    async def one() -> None:
        async with limit.place():
            seen.append(limit.under_way)
            await asyncio.sleep(0.001)

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(many())
    assert len(seen) == 20
    assert max(seen) == 3
    assert limit.under_way == 0


def test_a_failure_gives_its_place_back() -> None:
    limit = AdaptiveLimit(1)

    async def fail_and_go_on() -> None:
        for _ in range(3):
            try:
                async with limit.place():
                    raise KeyError
            except KeyError:
                pass

    asyncio.run(fail_and_go_on())
    assert limit.under_way == 0


def test_while_it_keeps_quiet_nobody_goes() -> None:
    limit = AdaptiveLimit(4)
    until = time.monotonic() + 0.05
    limit.keep_quiet(until=until)
    limit.keep_quiet(until=until - 1)  # an earlier wish does not undo a later one

    async def go() -> float:
        async with limit.place():
            return time.monotonic()

    assert asyncio.run(go()) >= until
