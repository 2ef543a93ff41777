"""Requests to a server: repeated while a fault may pass, refused in one line when it will not."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from reward_server import RewardServer, serve

from charm_rm.data.tables import DataError
from charm_rm.models import endpoints
from charm_rm.models.adaptive_limit import START
from charm_rm.models.endpoints import (
    LONGEST_PAUSE,
    BadReplyError,
    Connection,
    Endpoint,
    RequestFailedError,
    connect,
    parse_address,
    run,
    work_through,
)
from charm_rm.models.refusals import seconds_to_wait
from charm_rm.models.reward_servers import SERVERS

IDS = [[1, 2, 3]]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(endpoints, "LONGEST_PAUSE", 0.05)


def ask(
    url: str, path: str = "/classify", *, read: Callable[[Any, str], Any] | None = None, **how: Any
) -> Any:
    """One request with three ids; what ``read`` makes of the reply."""

    async def send(connection: Connection) -> Any:
        def body(request_id: str) -> dict[str, Any]:
            return {"model": "rm", "input": IDS, "request_id": request_id}

        return await connection.send(path, read or (lambda reply, _: reply), body=body)

    async def ask_once() -> Any:
        async with connect(Endpoint(url, **how)) as connection:
            return await send(connection)

    return run(ask_once())


# Addresses


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("https://host/prefix/v1/classify", "https://host/prefix"),
        (" http://host:5000/get_reward", "http://host:5000"),
        ("http://host:5000/pooling", "http://host:5000"),
        ("http://host/v1/chat/completions", "http://host"),
        ("http://v1.example.org/api", "http://v1.example.org/api"),
    ],
)
def test_an_address_is_taken_with_or_without_a_route(given: str, root: str) -> None:
    assert parse_address(given) == root


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("127.0.0.1:8000", "no http:// or https:// in front"),
        ("localhost:8000", "no http:// or https:// in front"),
        ("ftp://host/", "no http:// or https:// in front"),
        ("http://", "no http:// or https:// in front"),
        ("http://host:no-port", "not an address"),
        ("", "no http:// or https://"),
    ],
)
def test_an_address_that_is_none_is_refused(given: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        parse_address(given)


@pytest.mark.parametrize("given", ["http://me:hunter2@host", "http://host/?api_key=hunter2"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(DataError, match="CHARM_API_KEY") as refused:
        parse_address(given)
    assert "hunter2" not in str(refused.value)


# What passes


@pytest.mark.parametrize("fault", ["busy", "error", "drop", "cut"])
def test_a_fault_that_passes_is_survived(fault: str) -> None:
    with serve(RewardServer(faults=[fault], share=0.7)) as server:
        replies = [ask(server.url, max_retries=40) for _ in range(5)]
    assert len({reply["data"][0]["probs"][0] for reply in replies}) == 1
    assert server.suffered[fault] > 0


def test_a_server_that_hangs_is_left_and_asked_again() -> None:
    with serve(RewardServer(faults=["hang"], share=0.5, seed=1)) as server:
        ask(server.url, timeout=0.2)
    assert server.suffered["hang"] > 0


def test_a_reply_that_its_reader_refuses_is_asked_for_again_under_another_id() -> None:
    seen = []

    def third_time_lucky(reply: Any, request_id: str) -> Any:
        seen.append(request_id)
        if len(seen) < 3:
            raise BadReplyError("no luck")
        return reply["id"]

    with serve(RewardServer()) as server:
        assert ask(server.url, read=third_time_lucky) == f"classify-{seen[2]}"
    assert len(set(seen)) == 3


def test_the_server_decides_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(RewardServer(faults=["busy"], share=1.0)) as server:
        monkeypatch.setattr(endpoints, "seconds_to_wait", lambda value: 0.1 if value else 0.0)
        started = time.monotonic()
        with pytest.raises(RequestFailedError, match="status 429"):
            ask(server.url, max_retries=3)
        assert time.monotonic() - started >= 0.3


def test_a_wish_for_a_long_wait_ends_the_run_with_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoints, "seconds_to_wait", lambda _: 3600.0)
    with (
        serve(RewardServer(faults=["busy"], share=1.0)) as server,
        pytest.raises(RequestFailedError, match="it asks to wait 3,600 s; run again then"),
    ):
        ask(server.url)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0), ("soon", 0), ("nan", 0), (None, 0)]
)
def test_retry_after_is_a_number_of_seconds(header: str | None, seconds: float) -> None:
    assert seconds_to_wait(header) == seconds


def test_retry_after_is_a_date() -> None:
    header = formatdate(time.time() + 60, usegmt=True)
    assert 57 < seconds_to_wait(header) <= 60
    assert seconds_to_wait(formatdate(time.time() - 60, usegmt=True)) == 0


def test_a_busy_server_gets_fewer_requests_at_once() -> None:
    async def load(server: RewardServer) -> float:
        async with connect(Endpoint(server.url, concurrency=64, max_retries=50)) as connection:

            async def one(_: int) -> list[int]:
                await connection.send(
                    "/classify",
                    lambda reply, _: reply,
                    body=lambda name: {"model": "rm", "input": IDS, "request_id": name},
                )
                return []

            await work_through(range(80), one, n_workers=64)
            return connection.limit.size

    with serve(RewardServer()) as server:
        assert run(load(server)) == 64
    with serve(RewardServer(faults=["busy"], share=0.2)) as server:
        assert run(load(server)) < 16


def test_slow_replies_lower_the_number_of_requests_at_once() -> None:
    async def load(server: RewardServer) -> float:
        async with connect(Endpoint(server.url, timeout=0.4)) as connection:
            for _ in range(3):
                await connection.send("/version", lambda reply, _: reply)
            quick = connection.limit.size
            await connection.send(
                "/classify",
                lambda reply, _: reply,
                body=lambda name: {"model": "rm", "input": IDS, "request_id": name},
            )
            return connection.limit.size / quick

    with serve(RewardServer(delay=0.15)) as server:
        assert run(load(server)) == pytest.approx(0.7)


# What does not pass


def test_faults_that_stay_end_the_run_after_the_last_try() -> None:
    with (
        serve(RewardServer(faults=["error"], share=1.0)) as server,
        pytest.raises(RequestFailedError, match="in the last of 4 tries") as failed,
    ):
        ask(server.url, max_retries=3)
    assert server.suffered["error"] == 4
    assert (failed.value.status, failed.value.divisible) == (500, True)
    assert "\n" not in str(failed.value)


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with serve(RewardServer()) as gone:
        url = gone.url
    with pytest.raises(RequestFailedError, match=r"no connection .*; check the address") as failed:
        ask(url)
    assert "tries" not in str(failed.value)


def test_a_server_that_never_says_a_word_is_given_up_soon() -> None:
    with (
        serve(RewardServer(faults=["hang"], share=1.0)) as server,
        pytest.raises(RequestFailedError, match=r"no reply in 0.1 s in the last of 3 tries"),
    ):
        ask(server.url, timeout=0.1)


def test_a_request_that_the_server_refuses_is_not_repeated() -> None:
    with (
        serve(RewardServer(refuse=IDS[0])) as server,
        pytest.raises(RequestFailedError, match=r"status 400 .*out of vocabulary") as failed,
    ):
        ask(server.url)
    assert failed.value.divisible


def test_a_missing_route_is_refused() -> None:
    with (
        serve(RewardServer()) as server,
        pytest.raises(RequestFailedError, match=r"/score: status 404 .*check the address"),
    ):
        ask(server.url, "/score")


def test_the_first_failure_ends_the_work_on_all_others() -> None:
    ended = []

    async def one(job: int) -> list[int]:
        if job == 3:
            raise ValueError("the third")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append(job)
            raise
        return []

    with pytest.raises(ValueError, match="the third"):
        run(work_through(range(8), one, n_workers=8))
    assert sorted(ended) == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("how", [{"concurrency": 0}, {"timeout": 0.0}])
def test_settings_that_make_no_sense_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ask("http://127.0.0.1:9", **how)


def test_a_running_loop_is_no_obstacle() -> None:
    async def as_in_a_notebook() -> str:
        with serve(RewardServer()) as server:
            return str(ask(server.url)["object"])

    assert asyncio.run(as_in_a_notebook()) == "list"


# The page


def test_the_page_gives_the_limits_of_the_code() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "serving.md").read_text().split())
    statuses = ", ".join(map(str, sorted(endpoints.PASSING)))
    sizes = {name: routes[0].per_request for name, routes in SERVERS.items()}
    assert sizes["vllm"] == sizes["sglang"]
    for line in (
        f"Up to `--concurrency` requests ({endpoints.CONCURRENCY}) are under way",
        f"of {sizes['vllm']} conversations each ({sizes['openrlhf']} for OpenRLHF",
        f"It begins with {START} and doubles",
        f"took longer than {endpoints.SLOW_REPLY:g} s takes a part away",
        f"{statuses}, a dropped connection, no reply in {endpoints.TIMEOUT:g} s",
        f"up to {endpoints.MAX_RETRIES} times, after pauses of 0.5 to {LONGEST_PAUSE:g} s",
        f"`Retry-After` says, up to {endpoints.LONGEST_WISH:g} s",
    ):
        assert line in page


# The key


def get_models(url: str) -> Any:
    async def get() -> Any:
        async with connect(Endpoint(url)) as connection:
            return await connection.send("/v1/models", lambda reply, _: reply)

    return run(get())


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARM_API_KEY", "sesame")
    with serve(RewardServer(key="sesame")) as server:
        assert get_models(server.url)["data"][0]["id"] == "rm"


def test_an_endpoint_may_name_another_variable_for_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")

    async def get(url: str) -> Any:
        async with connect(Endpoint(url, key_variable="OPENAI_API_KEY")) as connection:
            return await connection.send("/v1/models", lambda reply, _: reply)

    with serve(RewardServer(key="sesame")) as server:
        assert run(get(server.url))["data"][0]["id"] == "rm"


def test_another_services_key_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHARM_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-company")
    with serve(RewardServer()) as server:
        get_models(server.url)
    assert server.keys == [None]


def test_a_wrong_key_is_refused_at_once_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(RewardServer(key="sesame")) as server:
        monkeypatch.delenv("CHARM_API_KEY", raising=False)
        with pytest.raises(RequestFailedError, match="it asks for a key; set CHARM_API_KEY"):
            get_models(server.url)
        monkeypatch.setenv("CHARM_API_KEY", "hunter2")
        with pytest.raises(RequestFailedError, match="it does not take the key") as refused:
            get_models(server.url)
    assert len(server.keys) == 2
    assert "hunter2" not in str(refused.value)
    assert "***" in str(refused.value)


def test_a_key_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARM_API_KEY", "geheimn\u00efs")
    with pytest.raises(ValueError, match="CHARM_API_KEY holds characters") as refused:
        get_models("http://127.0.0.1:9")
    assert "geheim" not in str(refused.value)
