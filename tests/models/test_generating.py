"""Runs of a policy, any callable: what is asked, what is kept, and what a rerun does."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.parts import open_parts
from charm_rm.data.prompts import as_messages
from charm_rm.data.responses import read_responses
from charm_rm.data.tables import DataError
from charm_rm.models import generating
from charm_rm.models.generating import Generated, Progress, generate_responses, make_requests
from charm_rm.models.generation_costs import Prices, estimate_run, tally_responses
from charm_rm.models.policies import SEED_BITS, Completion, Failure, Request, request_seed
from charm_rm.models.response_folder import FAILURES, PARTS, TABLE, write_responses

SETTINGS: Mapping[str, Any] = {"model": "echo", "seed": 0}
Outcomes = Iterator[Completion | Failure]


def make_prompts(n: int, *, start: int = 0) -> pl.DataFrame:
    rows = [
        {"prompt_id": f"p{i}", "prompt": as_messages(f"question {i}"), "category": None}
        for i in range(start, start + n)
    ]
    schema = {"category": pl.String}
    return pl.DataFrame(rows, schema_overrides=schema)


class Echo:
    """Repeats the last turn, last request first, and keeps what it was asked."""

    def __init__(self, *, fails: Iterable[str] = ()) -> None:
        self.fails = set(fails)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, requests: Iterable[Request]) -> Outcomes:
        for request in reversed(list(requests)):
            self.asked.append((request.prompt_id, request.sample))
            if request.prompt_id in self.fails:
                yield Failure(request, "no")
            else:
                text = request.messages[-1]["content"]
                yield Completion(request, text, "stop", n_prompt_tokens=3, n_tokens=2)


def run(
    prompts: pl.DataFrame,
    policy: Callable[[Iterable[Request]], Outcomes],
    folder: Path,
    *,
    samples: int = 1,
    settings: Mapping[str, Any] = SETTINGS,
    **how: Any,
) -> Generated:
    """A run and what the command does after it."""
    generated = generate_responses(
        prompts,
        make_requests(prompts, samples=samples, system=how.pop("system", None)),
        policy,
        name="echo",
        folder=folder,
        settings=settings,
        **how,
    )
    write_responses(
        generated.table,
        folder,
        made_by={"settings": settings},
        n_there=generated.n_in_table,
        complete=generated.complete,
    )
    return generated


# What is asked


def test_every_sample_of_every_prompt_is_asked_for_with_a_seed_of_its_own() -> None:
    requests = make_requests(make_prompts(5), samples=3, seed=1)
    assert [(one.prompt_id, one.sample) for one in requests][4:6] == [("p4", 0), ("p0", 1)]
    assert len({one.seed for one in requests}) == 15
    assert [one.seed for one in requests] == [
        request_seed(1, one.prompt_id, one.sample) for one in requests
    ]


def test_more_samples_ask_for_what_fewer_did_and_then_for_more() -> None:
    prompts = make_prompts(5)
    assert make_requests(prompts, samples=3)[:10] == make_requests(prompts, samples=2)


@given(st.integers(0, 2**63), st.text(), st.integers(0, 10**6))
def test_a_seed_fits_where_servers_read_it(seed: int, prompt_id: str, sample: int) -> None:
    assert 0 <= request_seed(seed, prompt_id, sample) < 2**SEED_BITS


def test_a_system_prompt_stands_before_prompts_that_have_none() -> None:
    own = [{"role": "system", "content": "Mine."}, *as_messages("Hi")]
    prompts = pl.DataFrame({"prompt_id": ["a", "b"], "prompt": [as_messages("Hi"), own]})
    first, second = make_requests(prompts, system="Be brief.")
    assert [one["content"] for one in first.messages] == ["Be brief.", "Hi"]
    assert [one["content"] for one in second.messages] == ["Mine.", "Hi"]
    assert [one.messages for one in make_requests(prompts)] == [
        tuple(as_messages("Hi")),
        tuple(own),
    ]


# What is kept


def test_the_table_is_one_of_responses_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    run(make_prompts(4), Echo(), tmp_path, samples=2, system="Be brief.")
    table = read_responses([tmp_path / TABLE])
    keys = table.select("prompt_id", "policy", "sample").rows()
    assert keys == [(f"p{i}", "echo", k) for i in range(4) for k in range(2)]
    assert table["response"].to_list() == [f"question {i}" for i in range(4) for _ in range(2)]
    assert set(table["finish_reason"]) == {"stop"}
    # The system prompt is the policy's, not the prompt's: tables of other policies join.
    assert [len(prompt) for prompt in table["prompt"]] == [1] * 8
    assert not (tmp_path / PARTS).exists()


def test_categories_are_carried_where_there_are_some(tmp_path: Path) -> None:
    prompts = make_prompts(2)
    assert "category" not in run(prompts, Echo(), tmp_path / "a").table.columns
    sorted_out = prompts.with_columns(pl.Series("category", ["Math", None]))
    table = run(sorted_out, Echo(), tmp_path / "b").table
    assert table["category"].to_list() == ["Math", None]


@pytest.mark.parametrize(
    ("text", "apart", "response", "reasoning"),
    [
        ("<think>hm</think>yes", None, "yes", "hm"),
        ("yes", "hm", "yes", "hm"),
        ("<think>2</think>yes", "1", "yes", "1\n\n2"),
        ("<think>cut", None, "", "cut"),
        ("<think></think>yes", None, "yes", None),
        ("write <think> first", None, "write <think> first", None),
    ],
)
def test_reasoning_never_is_part_of_the_response(
    text: str, apart: str | None, response: str, reasoning: str | None, tmp_path: Path
) -> None:
    def think(requests: Iterable[Request]) -> Outcomes:
        for request in requests:
            yield Completion(request, text, "stop", reasoning=apart)

    table = run(make_prompts(1), think, tmp_path).table
    assert table.select("response", "reasoning").row(0) == (response, reasoning)


def test_progress_counts_what_was_there_what_failed_and_what_was_written(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(make_prompts(3), Echo(), tmp_path)
    run(make_prompts(6), Echo(fails=["p4"]), tmp_path, on_progress=seen.append)
    assert seen[0] == Progress(done=3, total=6, n_failed=0, n_tokens=0)
    assert seen[-1] == Progress(done=6, total=6, n_failed=1, n_tokens=4)
    assert [one.done for one in seen] == [3, 4, 5, 6]


# What a rerun does


def test_a_rerun_asks_for_nothing_and_leaves_the_table_as_it_is(tmp_path: Path) -> None:
    run(make_prompts(4), Echo(), tmp_path)
    before = (tmp_path / TABLE).stat()
    again = Echo()
    assert len(run(make_prompts(4), again, tmp_path).table) == 4
    assert again.asked == []
    assert (tmp_path / TABLE).stat() == before


def test_a_rerun_asks_for_what_failed_alone(tmp_path: Path) -> None:
    first = run(make_prompts(4), Echo(fails=["p1", "p3"]), tmp_path)
    assert [one.request.prompt_id for one in first.failures] == ["p1", "p3"]
    assert read_responses([tmp_path / TABLE])["prompt_id"].to_list() == ["p0", "p2"]
    listed = [json.loads(line) for line in (tmp_path / FAILURES).read_text().splitlines()]
    assert listed[0] == {"prompt_id": "p1", "policy": "echo", "sample": 0, "reason": "no"}
    again = Echo(fails=["p3"])
    run(make_prompts(4), again, tmp_path)
    assert sorted(again.asked) == [("p1", 0), ("p3", 0)]
    assert len((tmp_path / FAILURES).read_text().splitlines()) == 1
    run(make_prompts(4), Echo(), tmp_path)
    assert not (tmp_path / FAILURES).exists()
    assert not (tmp_path / PARTS).exists()
    assert read_responses([tmp_path / TABLE])["prompt_id"].to_list() == ["p0", "p1", "p2", "p3"]


def test_more_prompts_and_more_samples_add_to_what_is_there(tmp_path: Path) -> None:
    run(make_prompts(2), Echo(), tmp_path)
    again = Echo()
    table = run(make_prompts(3), again, tmp_path, samples=2).table
    assert len(table) == 6
    assert sorted(again.asked) == [("p0", 1), ("p1", 1), ("p2", 0), ("p2", 1)]


def test_fewer_are_refused_for_responses_are_not_thrown_away(tmp_path: Path) -> None:
    run(make_prompts(3), Echo(), tmp_path, samples=2)
    for prompts, samples in ((make_prompts(3), 1), (make_prompts(2), 2)):
        with pytest.raises(DataError, match=r"holds a response to prompt 'p\d', sample \d, which"):
            run(prompts, Echo(), tmp_path, samples=samples)
    assert len(read_responses([tmp_path / TABLE])) == 6


def test_another_text_under_the_same_id_is_refused(tmp_path: Path) -> None:
    run(make_prompts(2), Echo(fails=["p1"]), tmp_path)
    other = make_prompts(2, start=1).with_columns(pl.Series("prompt_id", ["p0", "p1"]))
    with pytest.raises(DataError, match="prompt 'p0' is another text there"):
        run(other, Echo(), tmp_path)


@pytest.mark.parametrize("fails", [[], ["p1"]])
def test_other_settings_are_refused(fails: Sequence[str], tmp_path: Path) -> None:
    run(make_prompts(2), Echo(fails=fails), tmp_path)
    with pytest.raises(DataError, match="seed 0 there, 1 now"):
        run(make_prompts(2), Echo(), tmp_path, settings={**SETTINGS, "seed": 1})


def test_a_table_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"response": ["Hello"]}).write_parquet(tmp_path / TABLE)
    with pytest.raises(DataError, match="does not say how it was made"):
        run(make_prompts(2), Echo(), tmp_path)


def test_a_run_killed_between_writing_the_table_and_deleting_the_parts_doubles_nothing(
    tmp_path: Path,
) -> None:
    generated = generate_responses(
        make_prompts(3),
        make_requests(make_prompts(3)),
        Echo(),
        name="echo",
        folder=tmp_path,
        settings=SETTINGS,
    )
    write_responses(generated.table, tmp_path, made_by={"settings": SETTINGS}, complete=False)
    assert (tmp_path / PARTS).exists()
    again = Echo()
    assert len(run(make_prompts(3), again, tmp_path).table) == 3
    assert again.asked == []
    assert not (tmp_path / PARTS).exists()


def test_a_torn_part_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "SECONDS_PER_PART", 0.0)
    run(make_prompts(4), Echo(fails=["p0"]), tmp_path)
    (tmp_path / TABLE).unlink()
    torn = sorted((tmp_path / PARTS).glob("0*"))[1]
    lost = pl.read_parquet(torn)["prompt_id"].to_list()
    torn.write_bytes(torn.read_bytes()[:60])
    again = Echo()
    generated = run(make_prompts(4), again, tmp_path)
    assert sorted(again.asked) == sorted([("p0", 0), *((one, 0) for one in lost)])
    assert (generated.n_dropped, generated.n_before, len(generated.table)) == (1, 2, 4)


def test_a_limit_leaves_the_rest_for_the_next_run(tmp_path: Path) -> None:
    first = Echo()
    generated = run(make_prompts(5), first, tmp_path, limit=2)
    assert (len(first.asked), len(generated.table), generated.complete) == (2, 2, False)
    assert (tmp_path / PARTS).exists()
    again = Echo()
    assert run(make_prompts(5), again, tmp_path).complete
    assert len(again.asked) == 3


# Policies that go wrong


def test_what_a_policy_wrote_before_it_broke_is_kept(tmp_path: Path) -> None:
    def breaks(requests: Iterable[Request]) -> Outcomes:
        for at, outcome in enumerate(Echo(fails=["p4"])(requests)):
            if at == 3:
                raise DataError("the server has gone")
            yield outcome

    with pytest.raises(DataError, match="has gone"):
        run(make_prompts(5), breaks, tmp_path)
    assert len((tmp_path / FAILURES).read_text().splitlines()) == 1
    again = Echo()
    assert len(run(make_prompts(5), again, tmp_path).table) == 5
    assert sorted(again.asked) == [("p0", 0), ("p1", 0), ("p4", 0)]


def test_a_policy_that_ends_early_leaves_its_requests_listed(tmp_path: Path) -> None:
    generated = run(make_prompts(4), lambda requests: Echo()(list(requests)[:3]), tmp_path)
    assert [(one.request.prompt_id, one.reason) for one in generated.failures] == [
        ("p3", "the policy ended without an answer to it")
    ]


def test_a_policy_that_answers_twice_or_unasked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answered prompt 'p0', sample 0, which is not asked"):
        run(make_prompts(2), lambda requests: Echo()([*requests, *requests][:3]), tmp_path)
    stranger = make_requests(make_prompts(1, start=9))
    with pytest.raises(DataError, match="answered prompt 'p9'"):
        run(make_prompts(2), lambda _: Echo()(stranger), tmp_path / "other")


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    tmp_path.joinpath(PARTS).mkdir()
    with (
        open_parts(tmp_path / PARTS, settings=SETTINGS),
        pytest.raises(DataError, match="another run"),
    ):
        run(make_prompts(2), Echo(), tmp_path)


# Tokens and cost


def test_a_run_that_ends_just_before_another_begins_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    def open_after_another(folder: Path, **how: Any) -> Any:
        if not ended:
            ended.append(True)
            run(make_prompts(3), Echo(), tmp_path)
        return open_parts(folder, **how)

    monkeypatch.setattr(generating, "open_parts", open_after_another)
    echo = Echo()
    generated = run(make_prompts(5), echo, tmp_path)
    assert sorted(echo.asked) == [("p3", 0), ("p4", 0)]
    assert (generated.n_before, len(generated.table)) == (3, 5)


def test_a_table_is_counted() -> None:
    table = pl.DataFrame(
        {
            "prompt_id": ["a", "b", "b", "c"],
            "response": ["yes", " ", "no", "ha"],
            "reasoning": ["hm", None, None, None],
            "finish_reason": ["stop", "length", None, "length"],
            "n_prompt_tokens": [10, 20, None, 5],
            "n_tokens": [1, 8, None, 9],
        }
    )
    tally = tally_responses(table, max_new_tokens=8)
    assert tally.finish_reasons == {"length": 2, "none": 1, "stop": 1}
    assert (tally.n_truncated, tally.n_too_long, tally.n_empty) == (2, 1, 1)
    assert (tally.n_with_reasoning, tally.n_uncounted) == (1, 1)
    assert (tally.n_sampled, tally.n_same) == (1, 0)
    again = pl.concat([table, table.head(1)])
    assert tally_responses(again, max_new_tokens=8).n_same == 1
    assert (tally.n_prompt_tokens, tally.n_tokens) == (35, 18)
    assert Prices(2.0, 10.0).cost(tally.n_prompt_tokens, tally.n_tokens) == pytest.approx(25e-5)


def test_an_estimate_assumes_until_something_was_measured(tmp_path: Path) -> None:
    prompts = make_prompts(10)  # of 10 characters each
    requests = make_requests(prompts)
    missing, stored = generating.find_missing(prompts, requests, folder=tmp_path, settings=SETTINGS)
    how: dict[str, Any] = {"max_new_tokens": 8, "prices": Prices(1.0, 10.0)}
    blind = estimate_run(requests, missing, stored, **how)
    assert (blind.n_requests, blind.n_measured, blind.n_tokens, blind.cost) == (10, 0, None, None)
    assert (blind.n_prompt_tokens, blind.most_tokens) == (25, 80)
    assert blind.most_cost == pytest.approx(825e-6)

    run(prompts, Echo(), tmp_path, limit=4)  # 3 tokens read and 2 written of each
    missing, stored = generating.find_missing(prompts, requests, folder=tmp_path, settings=SETTINGS)
    seen = estimate_run(requests, missing, stored, **how)
    assert (seen.n_requests, seen.n_measured, seen.n_tokens) == (6, 4, 12)
    assert seen.n_prompt_tokens == 18
    assert seen.chars_per_token == pytest.approx(10 / 3)
    assert seen.cost == pytest.approx((18 + 120) * 1e-6)
