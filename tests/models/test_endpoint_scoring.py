"""Scores from servers, well-behaved and not: every row once, with exactly its own score."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from reward_server import FAULTS, RewardServer, serve, true_score
from transformers import PreTrainedTokenizerFast

from charm_rm.data.parts import open_parts
from charm_rm.data.prompts import as_messages
from charm_rm.data.responses import conversation
from charm_rm.data.tables import DataError
from charm_rm.models import endpoint_scoring, endpoints
from charm_rm.models.endpoint_model import EndpointModel
from charm_rm.models.endpoint_probe import PROBES, find_model
from charm_rm.models.endpoint_scoring import score_at_endpoint
from charm_rm.models.endpoints import Endpoint
from charm_rm.models.scoring import score_responses
from charm_rm.models.text_rules import TextRules, load_text_rules

ROUTES = {
    "vllm": ("/v1/models", "/version", "/classify", "/pooling"),
    "sglang": ("/v1/models", "/classify"),
    "openrlhf": ("/get_reward",),
}
# OpenRLHF's reply has neither ids nor an order of its own: there these can't be noticed.
UNSEEN = {"vllm": (), "sglang": (), "openrlhf": ("order", "foreign")}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(endpoints, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def rules(tmp_path: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]) -> TextRules:
    tokenizer_of("llama").save_pretrained(tmp_path / "tokenizer")
    return load_text_rules(str(tmp_path / "tokenizer"))


@pytest.fixture
def responses() -> pl.DataFrame:
    """Three policies on 80 prompts; one response is empty, two are equal, one is very long."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "prompt_id": f"p{prompt}",
            "prompt": as_messages(f"hello w{prompt % 40} w{prompt // 40}"),
            "policy": policy,
            "sample": 0,
            "response": " ".join(f"w{n}" for n in rng.integers(0, 40, rng.integers(1, 40))),
            "category": "chat",
        }
        for policy in ("a", "b", "c")
        for prompt in range(80)
    ]
    rows[3]["response"] = ""
    rows[165]["response"] = rows[5]["response"]
    rows[7]["response"] = "w1 w2 " * 100
    return pl.DataFrame(rows)


def make_server(kind: str, rules: TextRules, **how: Any) -> RewardServer:
    tokenizer = rules.encode.keywords["tokenizer"]  # type: ignore[attr-defined]

    def to_ids(given: Any) -> list[int]:
        if isinstance(given, str):
            return list(tokenizer(given, add_special_tokens=False)["input_ids"])
        return rules.encode([given])[0]

    return RewardServer(kind, to_ids=to_ids, routes=ROUTES[kind], **how)


def find(server: RewardServer, rules: TextRules | None, **how: Any) -> EndpointModel:
    endpoint = Endpoint(server.url, **{"concurrency": 16, "max_retries": 12} | how)
    length = 128 if server.kind == "openrlhf" else None
    return find_model(endpoint, model="rm", rules=rules, max_length=length)


def expected_scores(responses: pl.DataFrame, rules: TextRules, cut: int) -> list[float]:
    encoded = rules.encode([conversation(row) for row in responses.to_dicts()])
    return [true_score(ids[:cut]) for ids in encoded]


# Well-behaved servers


@pytest.mark.parametrize("kind", ROUTES)
def test_prompts_that_fill_the_length_are_told(
    kind: str, rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    rows = responses.head(3).to_dicts()
    rows[1]["prompt"] = as_messages("hello " * 200)
    told: list[str] = []
    with serve(make_server(kind, rules)) as server:
        model = find(server, rules)
        score_at_endpoint(pl.DataFrame(rows), model, parts=tmp_path, on_warning=told.append)
        assert [line.partition(":")[0] for line in told] == ["of 1 of 3 responses nothing is read"]
        n_asked = server.seen.total()
        with pytest.raises(DataError, match="of 1 of 1 responses nothing is read"):
            score_at_endpoint(pl.DataFrame(rows[1:2]), model, parts=tmp_path / "one")
        assert server.seen.total() == n_asked


@pytest.mark.parametrize("kind", ROUTES)
def test_every_row_gets_its_own_score_in_the_order_of_the_responses(
    kind: str, rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    with serve(make_server(kind, rules)) as server:
        model = find(server, rules)
        scores = score_at_endpoint(responses, model, parts=tmp_path / "parts")
    cut = model.max_length
    assert cut is not None
    assert scores["score"].to_list() == expected_scores(responses, rules, cut)
    keys = ["prompt_id", "policy", "sample"]
    assert scores.select(keys).equals(responses.select(keys))
    lengths = [len(ids) for ids in rules.encode([conversation(r) for r in responses.to_dicts()])]
    assert scores["n_tokens"].to_list() == lengths
    assert scores["truncated"].to_list() == [length > cut for length in lengths]
    assert scores["truncated"].sum() == 1


def test_the_table_is_that_of_the_local_path_through_the_same_model(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules)
        streamed = score_at_endpoint(responses, model, parts=tmp_path / "streamed")
        called: Any = model
        chunked = score_responses(responses, called, parts=tmp_path / "chunked")
    assert streamed.equals(chunked)


def test_a_served_model_is_a_callable_like_any_other(rules: TextRules) -> None:
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules)
        assert model(PROBES).tolist() == [true_score(ids) for ids in model.encode(PROBES)]
        assert model([]).shape == (0,)


def test_without_a_tokenizer_messages_are_sent_and_the_server_counts(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    short = responses.filter(pl.col("response").str.len_chars() < 300)
    with serve(make_server("vllm", rules)) as server:
        model = find(server, None)
        scores = score_at_endpoint(short, model, parts=tmp_path / "parts")
        assert "give --tokenizer" in model.warnings[0]
        with pytest.raises(ValueError, match="give a tokenizer"):
            model.encode(PROBES)
    assert scores["score"].to_list() == expected_scores(short, rules, 128)
    assert scores["n_tokens"].to_list() == [
        len(ids) for ids in rules.encode([conversation(row) for row in short.to_dicts()])
    ]
    assert all("messages" in body and len(body["messages"]) == 2 for body in server.bodies)


def test_a_conversation_that_the_server_finds_too_long_is_named(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    with serve(make_server("vllm", rules)) as server:
        model = find(server, None)
        with pytest.raises(DataError, match=r"prompt 'p7', policy 'a': .*status 400 .*tokens"):
            score_at_endpoint(responses, model, parts=tmp_path / "parts")


def test_equal_inputs_are_sent_once(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules)
        server.seen.clear()
        score_at_endpoint(
            responses, model, parts=tmp_path / "parts", on_progress=lambda *now: seen.append(now)
        )
    assert set(server.seen.values()) == {1}
    assert seen[0] == (0, sum(map(len, server.seen)))
    assert seen[-1][0] == seen[-1][1] == seen[0][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_raw_scores_are_asked_for_in_every_request(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules)
        server.bodies.clear()
        score_at_endpoint(responses, model, parts=tmp_path / "parts")
    assert all(body["use_activation"] is False for body in server.bodies)
    assert all(body["add_special_tokens"] is False for body in server.bodies)
    names = [body["request_id"] for body in server.bodies]
    assert len(set(names)) == len(names) > 10


# Misbehaving servers


@pytest.mark.parametrize("kind", ROUTES)
def test_a_fifth_of_the_requests_going_wrong_costs_no_row_and_no_score(
    kind: str, rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    faults = [fault for fault in FAULTS if fault not in UNSEEN[kind]]
    with serve(make_server(kind, rules)) as server:
        model = replace(
            find(server, rules), endpoint=Endpoint(server.url, max_retries=12, timeout=1.0)
        )
        # Small requests, so that many of them go wrong.
        model = replace(model, server=replace(model.server, per_request=2))
        server.faults, server.share = faults, 0.2
        scores = score_at_endpoint(responses, model, parts=tmp_path / "parts")
    assert model.max_length is not None
    assert scores["score"].to_list() == expected_scores(responses, rules, model.max_length)
    assert sum(server.suffered.values()) >= 10
    assert len(server.suffered) >= 5
    with open_parts(tmp_path / "parts", settings=model.fingerprint()) as parts:
        stored = parts.read()
    assert stored is not None
    assert set(Counter(stored["input"]).values()) == {1}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_each_fault_alone_is_survived(
    fault: str, kind: str, rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    some = responses.head(40)
    share = 0.1 if fault == "hang" else 0.5
    with serve(make_server(kind, rules)) as server:
        model = find(server, rules, timeout=1.0 if fault == "hang" else 30.0, max_retries=30)
        server.faults, server.share = [fault], share
        scores = score_at_endpoint(some, model, parts=tmp_path / "parts")
    assert scores["score"].to_list() == expected_scores(some, rules, model.max_length or 0)


def test_a_conversation_that_the_server_never_takes_is_named_and_the_others_are_kept(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    row = responses.to_dicts()[100]
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules)
        server.refuse = rules.encode([conversation(row)])[0]
        name = f"prompt {row['prompt_id']!r}, policy {row['policy']!r}"
        with pytest.raises(DataError, match=f"{name}: .*status 400 .*out of vocabulary") as refused:
            score_at_endpoint(responses, model, parts=tmp_path / "parts")
        assert "\n" not in str(refused.value)
        asked = len(server.seen)
        server.refuse = ()
        server.seen.clear()
        scores = score_at_endpoint(responses, model, parts=tmp_path / "parts")
    assert len(server.seen) < asked
    assert scores["score"].to_list() == expected_scores(responses, rules, 128)


def test_a_score_that_is_never_a_number_ends_in_one_line(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules, max_retries=2)
        server.faults, server.share = ["nan"], 1.0
        with pytest.raises(
            DataError, match=r"policy '\w': .*a score is nan in the last of 3 tries"
        ):
            score_at_endpoint(responses, model, parts=tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("0*"))


# Resuming


def test_what_is_on_disk_is_not_asked_for_again_and_a_torn_part_is(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_scoring, "SECONDS_PER_PART", 0.0)
    parts = tmp_path / "parts"
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules)
        whole = score_at_endpoint(responses, model, parts=parts)
        server.seen.clear()
        assert score_at_endpoint(responses, model, parts=parts).equals(whole)
        assert not server.seen
        torn = sorted(parts.glob("0*"))[2]
        n_torn = len(pl.read_parquet(torn))
        torn.write_bytes(torn.read_bytes()[:60])
        assert score_at_endpoint(responses, model, parts=parts).equals(whole)
    assert sum(server.seen.values()) == n_torn


def test_two_runs_on_one_output_are_refused(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    begun = threading.Event()
    with serve(make_server("vllm", rules, delay=0.05)) as server:
        model = find(server, rules)

        def first() -> None:
            score_at_endpoint(
                responses, model, parts=tmp_path / "parts", on_progress=lambda *_: begun.set()
            )

        running = threading.Thread(target=first)
        running.start()
        assert begun.wait(10)
        with pytest.raises(DataError, match="another run"):
            score_at_endpoint(responses, model, parts=tmp_path / "parts")
        running.join()


def test_a_resume_against_another_model_is_refused(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path
) -> None:
    with serve(make_server("vllm", rules)) as server:
        model = find(server, rules)
        score_at_endpoint(responses, model, parts=tmp_path / "parts")
        other = replace(model, name="rm-2")
        with pytest.raises(DataError, match=r"reward_model 'rm' there, 'rm-2' now"):
            score_at_endpoint(responses, other, parts=tmp_path / "parts")
        with pytest.raises(DataError, match=r"template .* there, \"the server's\" now"):
            score_at_endpoint(responses, find(server, None), parts=tmp_path / "parts")


def test_no_key_is_in_what_is_written(
    rules: TextRules, responses: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARM_API_KEY", "sesame-open")
    with serve(make_server("vllm", rules, key="sesame-open")) as server:
        score_at_endpoint(responses, find(server, rules), parts=tmp_path / "parts")
    assert set(server.keys) == {"Bearer sesame-open"}
    written = b"".join(path.read_bytes() for path in (tmp_path / "parts").iterdir())
    assert b"sesame" not in written
