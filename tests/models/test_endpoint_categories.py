"""Categories from an endpoint, against a server on this machine that misbehaves."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from category_server import Server

from charm_rm.categorize import fill_categories
from charm_rm.data.categories import CATEGORIES, RULES, read_prompt_table
from charm_rm.data.parts import open_parts
from charm_rm.data.tables import DataError
from charm_rm.models import endpoints
from charm_rm.models.endpoint_categories import CategoryEndpoint, ask_categories

KEY = "a-key-that-must-not-be-written"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(endpoints, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    one = Server()
    thread = threading.Thread(target=one.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield one
    one.let_go.set()
    one.http.shutdown()
    thread.join(timeout=5)
    one.http.server_close()


def endpoint(server: Server, **changes: Any) -> CategoryEndpoint:
    settings: dict[str, Any] = {"model": "judge", "max_retries": 2, "timeout": 5.0} | changes
    return CategoryEndpoint(server.url, **settings)


def test_the_request_holds_the_rules_and_allows_six_answers(server: Server, tmp_path: Path) -> None:
    assert ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts") == ["Others"]
    (request,) = server.requests
    system, user = request["messages"]
    assert all(
        name in system["content"] and rule in system["content"] for name, rule in RULES.items()
    )
    assert user == {"role": "user", "content": "Hi"}
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["category"]["enum"] == list(CATEGORIES)
    assert request["temperature"] == 0
    assert server.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    "answer",
    [
        '{"category": "Factual QA"}',
        '"Factual QA"',
        " Factual QA\n",
        '```json\n{"category": "Factual QA"}\n```',
        '<think>\nNo code, so {...}\n</think>\n\n{"category": "Factual QA"}',
    ],
)
def test_the_name_is_taken_as_json_or_bare_and_from_its_wrapping(
    server: Server, tmp_path: Path, answer: str
) -> None:
    server.answer = answer
    assert ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts") == ["Factual QA"]


@pytest.mark.parametrize("trouble", [(429, "slow down"), (500, "oops"), (503, "busy")])
def test_passing_trouble_is_waited_out(
    server: Server, tmp_path: Path, trouble: tuple[int, str]
) -> None:
    server.behaviours = [trouble, trouble]
    assert ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts") == ["Others"]
    assert len(server.requests) == 3


def test_a_request_that_hangs_is_given_up_and_repeated(server: Server, tmp_path: Path) -> None:
    server.behaviours = ["hang"]
    patient = endpoint(server, timeout=0.3)
    assert ask_categories(["Hi"], patient, parts=tmp_path / "parts") == ["Others"]
    assert len(server.requests) == 2


def test_a_server_that_always_hangs_ends_the_run_in_one_line(
    server: Server, tmp_path: Path
) -> None:
    server.behaviours = ["hang"] * 2
    with pytest.raises(DataError, match=r"no reply in 0\.2 s .*run again to go on"):
        ask_categories(
            ["Hi"], endpoint(server, timeout=0.2, max_retries=1), parts=tmp_path / "parts"
        )


@pytest.mark.parametrize("bad", ["Math", '{"category": "math"}', '{"category": null}', "[]", "{"])
def test_an_invalid_answer_is_asked_again_and_then_left_empty(
    server: Server, tmp_path: Path, bad: str
) -> None:
    server.behaviours = [bad]
    ask = endpoint(server)
    assert ask_categories(["Hi"], ask, parts=tmp_path / "parts") == ["Others"]
    server.answer = bad
    found = ask_categories(["Hi", "Hello"], ask, parts=tmp_path / "parts")
    assert found == ["Others", None]


@pytest.mark.parametrize(
    ("refuses", "left"),
    [
        (set(), {"response_format", "temperature", "system", "user"}),
        ({"temperature"}, {"response_format", "system", "user"}),
        ({"response_format"}, {"temperature", "system", "user"}),
        ({"response_format", "temperature"}, {"system", "user"}),
        ({"response_format", "temperature", "system"}, {"user"}),
    ],
)
def test_what_a_server_refuses_is_found_out_once_and_left_out(
    server: Server, tmp_path: Path, refuses: set[str], left: set[str]
) -> None:
    server.refuses = refuses
    texts = [f"prompt {n}" for n in range(5)]
    assert ask_categories(texts, endpoint(server), parts=tmp_path / "parts") == ["Others"] * 5
    assert len(server.requests) == 5
    for request in server.requests:
        roles = {message["role"] for message in request["messages"]}
        assert (request.keys() | roles) - {"model", "messages"} == left
        assert all(rule in request["messages"][0]["content"] for rule in RULES.values())


def test_a_server_that_refuses_every_form_ends_the_run(server: Server, tmp_path: Path) -> None:
    server.refuses = {"model"}
    with pytest.raises(DataError, match=r"status 400 \(.*no such field here"):
        ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts")
    assert len(server.first_requests) == 5
    assert server.requests == []


@pytest.mark.parametrize("status", [400, 422])
def test_a_single_prompt_that_is_refused_stays_empty(
    server: Server, tmp_path: Path, status: int
) -> None:
    server.behaviours = [(status, "content_filter")]
    ask = endpoint(server, concurrency=1)
    assert ask_categories(["Hi", "Ho"], ask, parts=tmp_path / "parts") == [None, "Others"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "it does not take the key; set OPENAI_API_KEY"),
        (403, "it does not take the key"),
        (404, "no such route or model there; check the address and --model"),
        (400, r"status 400 \(.*no such thing.*\)"),
        (429, r"status 429 \(.*no such thing.*\) in the last of 3 tries; .*run again to go on"),
        (500, r"status 500 \(.*no such thing.*\) in the last of 3 tries; .*run again to go on"),
    ],
)
def test_lasting_trouble_is_said_in_one_line_without_the_key(
    server: Server, tmp_path: Path, status: int, words: str
) -> None:
    server.shy = True
    server.behaviours = [(status, f"no such thing, {KEY}")] * 20
    with pytest.raises(DataError, match=words) as caught:
        ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts")
    assert str(caught.value).startswith(server.url)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_what_was_answered_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    texts = [f"prompt {n}" for n in range(12)]
    ask = endpoint(server, concurrency=1, max_retries=0)
    server.behaviours = [*[server.answer] * 6, (500, "oops")]
    with pytest.raises(DataError, match="status 500"):
        ask_categories(texts, ask, parts=tmp_path / "parts")
    with open_parts(tmp_path / "parts", settings=ask.fingerprint()) as parts:
        stored = parts.read()
    assert stored is not None
    assert len(stored) >= 6  # the batch in flight too: its answers were there
    before = len(server.requests)
    seen: list[tuple[int, int]] = []
    found = ask_categories(
        texts, ask, parts=tmp_path / "parts", on_progress=lambda *state: seen.append(state)
    )
    assert found == ["Others"] * 12
    assert len(server.requests) - before == 12 - len(stored)
    assert seen[0] == (len(stored), 12)
    assert seen[-1] == (12, 12)


def test_no_more_requests_are_under_way_than_allowed(server: Server, tmp_path: Path) -> None:
    texts = [f"prompt {n}" for n in range(40)]
    ask_categories(texts, endpoint(server, concurrency=3), parts=tmp_path / "parts")
    assert len(server.requests) == 40
    assert server.most_at_once <= 3


def test_the_key_is_written_nowhere(server: Server, tmp_path: Path) -> None:
    ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"judge" in written
    assert KEY.encode() not in written


def test_another_model_may_not_go_on_with_the_parts(server: Server, tmp_path: Path) -> None:
    ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts")
    with pytest.raises(DataError, match="model 'judge' there, 'other' now"):
        ask_categories(["Hi"], endpoint(server, model="other"), parts=tmp_path / "parts")


def test_a_misspelt_model_does_not_stand_in_the_way_of_the_right_one(
    server: Server, tmp_path: Path
) -> None:
    server.shy = True
    server.behaviours = [(404, "no such model")]
    with pytest.raises(DataError, match="no such route or model there"):
        ask_categories(["Hi"], endpoint(server, model="jugde"), parts=tmp_path / "parts")
    assert ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts") == ["Others"]


@pytest.mark.parametrize("key", ["a\nb", "\u043a\u043b\u044e\u0447"])
def test_a_key_that_is_none_is_told_without_being_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters") as caught:
        ask_categories(["Hi"], endpoint(server), parts=tmp_path / "parts")
    assert key not in str(caught.value)


def test_a_long_prompt_is_sent_by_its_ends(server: Server, tmp_path: Path) -> None:
    ask_categories(["a" * 9000 + "z"], endpoint(server), parts=tmp_path / "parts")
    sent = server.requests[0]["messages"][1]["content"]
    assert len(sent) < 8100
    assert sent.endswith("z")


def test_an_endpoint_fills_a_table(server: Server, tmp_path: Path) -> None:
    server.answer = '{"category": "Creative Writing"}'
    pl.DataFrame({"prompt": ["a", "a"], "policy": ["x", "y"]}).write_csv(tmp_path / "r.csv")
    table = read_prompt_table([tmp_path / "r.csv"])
    ask = endpoint(server)
    result = fill_categories(
        table, lambda texts: ask_categories(texts, ask, parts=tmp_path / "parts")
    )
    assert result.counts["Creative Writing"] == 2
    assert len(server.requests) == 1


def start_charm(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Starts `charm categorize` with the environment of the test."""
    command = "from charm_rm.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, "categorize", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "140"},
    )


def run_charm(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    run = start_charm(folder, *arguments)
    out, words = run.communicate(timeout=120)
    return subprocess.CompletedProcess(run.args, run.returncode, out, words)


def test_the_command_asks_resumes_and_clears_up(server: Server, tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["a", "b"]}).write_csv(tmp_path / "p.csv")
    command = ("p.csv", "--out", "f.csv", "--endpoint", server.url, "--model", "judge", "--json")
    server.behaviours = [server.answer, (401, "who are you?")]
    refused = run_charm(tmp_path, *command, "--concurrency", "1")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(
        f"error: {server.url}/chat/completions: status 401"
    )
    assert KEY not in refused.stderr
    assert not (tmp_path / "f.csv").exists()
    done = run_charm(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "judge"
    assert len(server.requests) == 3  # the answer of the first run was kept
    assert pl.read_csv(tmp_path / "f.csv")["category"].to_list() == ["Others", "Others"]
    assert not (tmp_path / "f.csv.parts").exists()


def test_a_cache_outlives_the_run_and_serves_other_outputs(server: Server, tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["a", "b"]}).write_csv(tmp_path / "p.csv")
    command = ("p.csv", "--endpoint", server.url, "--model", "judge", "--cache", "answers")
    assert run_charm(tmp_path, *command, "--out", "one.csv").returncode == 0
    pl.DataFrame({"prompt": ["b", "c"]}).write_csv(tmp_path / "p.csv")
    assert run_charm(tmp_path, *command, "--out", "two.csv").returncode == 0
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert sorted(asked) == ["a", "b", "c"]
    assert len(server.first_requests) == 2


def test_a_killed_run_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    texts = [f"prompt {n}" for n in range(12)]
    pl.DataFrame({"prompt": texts}).write_csv(tmp_path / "p.csv")
    command = ("p.csv", "--out", "f.csv", "--endpoint", server.url, "--model", "judge")
    server.behaviours = [*[server.answer] * 9, "hang"]
    run = start_charm(tmp_path, *command, "--concurrency", "1")
    try:
        wait_until(lambda: len(server.requests) == 10)
    finally:
        run.kill()
        run.communicate(timeout=30)
    assert not (tmp_path / "f.csv").exists()
    server.let_go.set()
    done = run_charm(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert pl.read_csv(tmp_path / "f.csv")["category"].to_list() == ["Others"] * 12
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert {text for text in texts if asked.count(text) == 1} >= set(texts[:8])  # two whole parts


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def test_an_address_with_a_password_is_refused_without_showing_it(tmp_path: Path) -> None:
    ask = CategoryEndpoint(f"http://me:{KEY}@127.0.0.1:9/v1", "judge")
    with pytest.raises(DataError, match="put the key into OPENAI_API_KEY") as caught:
        ask_categories(["Hi"], ask, parts=tmp_path / "parts")
    assert KEY not in str(caught.value)


def test_no_prompts_need_no_server(tmp_path: Path) -> None:
    nowhere = CategoryEndpoint("http://127.0.0.1:9/v1", "none")
    assert ask_categories([], nowhere, parts=tmp_path / "parts") == []


def test_a_run_without_requests_at_once_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="concurrency is 0"):
        ask_categories(["Hi"], endpoint(server, concurrency=0), parts=tmp_path / "parts")
