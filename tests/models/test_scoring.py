"""Scoring: the same scores however they are batched, interrupted or asked for again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.data.responses import read_responses
from charm_rm.data.scores import SCORE_SCHEMA
from charm_rm.data.tables import DataError, write_table
from charm_rm.models.batches import length_batches
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import RewardModel, score_responses

MakeModel = Callable[..., Path]
Progress = list[tuple[int, int]]

LAYOUTS = ("llama", "mistral", "pad_is_eos", "qwen", "smol")


def load(folder: Path, *, dtype: str = "float32", max_length: int | None = None) -> RewardModel:
    return load_reward_model(str(folder), dtype=dtype, device="cpu", max_length=max_length)


def make_sequences(n: int = 30) -> list[list[int]]:
    """Ids of mixed lengths, 1 to 100."""
    rng = np.random.default_rng(0)
    return [rng.integers(8, 50, length).tolist() for length in rng.integers(1, 101, n)]


@pytest.fixture
def responses(tmp_path: Path) -> pl.DataFrame:
    """Two policies on ten prompts; one response is empty, two are equal."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "prompt_id": f"p{prompt}",
            "prompt": f"hello w{prompt}",
            "policy": policy,
            "response": " ".join(f"w{n}" for n in rng.integers(0, 40, rng.integers(1, 40))),
            "category": "chat",
        }
        for policy in ("a", "b")
        for prompt in range(10)
    ]
    rows[3]["response"] = ""
    rows[15]["response"] = rows[5]["response"]
    write_table(pl.DataFrame(rows), tmp_path / "responses.parquet")
    return read_responses([tmp_path / "responses.parquet"])


# Batches


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))
def test_batches_hold_every_row_once_within_the_budget_longest_first(
    lengths: list[int], budget: int
) -> None:
    batches = length_batches(lengths, budget)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(300, 1000))
def test_no_batch_could_have_taken_the_next_row(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, budget)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_a_budget_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        length_batches([1], 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_tokens", [1, 150, 400, 100_000])
def test_padded_batches_score_as_one_at_a_time_does(
    make: MakeModel, layout: str, batch_tokens: int
) -> None:
    model = load(make(layout))
    sequences = make_sequences()
    alone = model.score_ids(sequences)
    batched = replace(model, padded=True).score_ids(sequences, batch_tokens=batch_tokens)
    assert np.abs(batched - alone).max() <= 1e-5 * alone.std()


def test_scores_do_not_depend_on_order_or_company(make: MakeModel) -> None:
    model = replace(load(make()), padded=True)
    sequences = make_sequences()
    scores = model.score_ids(sequences)
    backwards = model.score_ids(sequences[::-1])[::-1]
    assert np.abs(backwards - scores).max() <= 1e-5 * scores.std()
    assert model.score_ids(sequences[4:5])[0] == pytest.approx(scores[4], abs=1e-5 * scores.std())


def test_without_padding_bfloat16_scores_do_not_depend_on_company_at_all(make: MakeModel) -> None:
    model = load(make(), dtype="bfloat16")
    sequences = make_sequences(8)
    together = model.score_ids(sequences)
    assert together.tolist() == [model.score_ids([ids])[0] for ids in sequences]


def test_nothing_to_score_is_an_empty_array(make: MakeModel) -> None:
    model = load(make())
    assert model.score_ids([]).shape == (0,)
    assert replace(model, padded=True)([]).shape == (0,)


@pytest.mark.parametrize("length", [0, 129])
def test_a_sequence_that_does_not_fit_is_refused(make: MakeModel, length: int) -> None:
    with pytest.raises(
        ValueError, match=f"{length} tokens; this model takes 1 to 128|hold {length}"
    ):
        load(make()).score_ids([[9] * length])


# Responses


def test_the_table_of_scores_follows_the_responses(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    model = load(make(name="my-rm"))
    scores = score_responses(responses, model, parts=tmp_path / "parts")
    keys = ["prompt_id", "policy", "sample"]
    assert scores.select(keys).equals(responses.select(keys))
    assert dict(scores.schema) == SCORE_SCHEMA | {
        "category": pl.String,
        "n_tokens": pl.Int64,
        "truncated": pl.Boolean,
    }
    assert scores["reward_model"].unique().to_list() == ["my-rm"]
    conversations = [
        [*row["prompt"], {"role": "assistant", "content": row["response"]}]
        for row in responses.to_dicts()
    ]
    assert scores["score"].to_list() == model(conversations).tolist()
    assert scores["n_tokens"].to_list() == [len(ids) for ids in model.encode(conversations)]
    assert not scores["truncated"].any()


def test_equal_inputs_are_scored_once_and_equally(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    seen: Progress = []
    scores = score_responses(
        responses, load(make()), parts=tmp_path / "parts", on_progress=lambda *now: seen.append(now)
    )
    assert scores["score"][5] == scores["score"][15]
    assert seen[-1][1] == scores["n_tokens"].sum() - scores["n_tokens"][15]


def test_truncation_is_marked_and_counted_before_the_cut(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    model = load(make(), max_length=20)
    scores = score_responses(responses, model, parts=tmp_path / "parts")
    assert scores["n_tokens"].max() > 20  # type: ignore[operator]
    assert scores["truncated"].to_list() == (scores["n_tokens"] > 20).to_list()
    row = responses.to_dicts()[int(scores["truncated"].arg_max() or 0)]
    ids = model.encode([[*row["prompt"], {"role": "assistant", "content": row["response"]}]])[0]
    assert scores.filter(truncated=True)["score"][0] == model.score_ids([ids[:20]])[0]


def test_a_malformed_response_is_named(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    no_text = pl.lit([{"role": "user", "content": " "}])
    broken = responses.with_columns(
        pl.when(pl.col("prompt_id") == "p7").then(no_text).otherwise("prompt").alias("prompt")
    )
    with pytest.raises(DataError, match=r"prompt 'p7', policy 'a': message 0 \(user\) is empty"):
        score_responses(broken, load(make()), parts=tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_a_score_that_is_no_number_is_refused_and_not_kept(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    model = load(make(name="sick"))
    model.head.tensors["score.weight"].fill_(np.nan)
    with pytest.raises(DataError, match=r"sick: the score of response \d+ is nan in float32"):
        score_responses(responses, model, parts=tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("0*"))


# Resuming


def score_until(n_chunks: int, responses: pl.DataFrame, model: RewardModel, parts: Path) -> None:
    """Scores in small chunks and is interrupted after ``n_chunks``."""
    calls = 0

    def interrupt(done: int, total: int) -> None:  # noqa: ARG001
        nonlocal calls
        calls += 1
        if calls > n_chunks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_responses(responses, model, parts=parts, batch_tokens=60, on_progress=interrupt)


def test_an_interrupted_run_continues_where_it_was_and_ends_the_same(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    model = load(make())
    whole = score_responses(responses, model, parts=tmp_path / "whole", batch_tokens=60)
    parts = tmp_path / "parts"
    score_until(4, responses, model, parts)
    kept = sorted(parts.glob("0*"))
    assert len(kept) == 4
    seen: Progress = []
    resumed = score_responses(
        responses, model, parts=parts, batch_tokens=60, on_progress=lambda *now: seen.append(now)
    )
    assert resumed.equals(whole)
    assert 0 < seen[0][0] < seen[-1][0] == seen[0][1]
    assert sorted(parts.glob("0*"))[:4] == kept


def test_a_finished_run_computes_nothing_again(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(make())
    first = score_responses(responses, model, parts=tmp_path / "parts")
    monkeypatch.setattr(RewardModel, "score_ids", None)
    seen: Progress = []
    again = score_responses(
        responses, model, parts=tmp_path / "parts", on_progress=lambda *now: seen.append(now)
    )
    assert again.equals(first)
    assert len(seen) == 1
    assert seen[0][0] == seen[0][1]


def test_a_torn_part_is_scored_again(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    model = load(make())
    parts = tmp_path / "parts"
    whole = score_responses(responses, model, parts=parts, batch_tokens=60)
    torn = sorted(parts.glob("0*"))[2]
    torn.write_bytes(torn.read_bytes()[:50])
    assert score_responses(responses, model, parts=parts).equals(whole)


def test_a_response_that_changed_since_is_scored_again_and_no_other(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    model = load(make())
    before = score_responses(responses, model, parts=tmp_path / "parts")
    changed = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("w1 w2")).otherwise("response")
    responses = responses.with_columns(changed.alias("response"))
    seen: Progress = []
    after = score_responses(
        responses, model, parts=tmp_path / "parts", on_progress=lambda *now: seen.append(now)
    )
    differs = (after["score"] != before["score"]).arg_true().to_list()
    assert differs == [7]
    assert seen[-1][0] - seen[0][0] == after["n_tokens"][7]


def test_a_resume_with_another_model_or_precision_is_refused(
    make: MakeModel, responses: pl.DataFrame, tmp_path: Path
) -> None:
    folder = make()
    parts = tmp_path / "parts"
    score_until(1, responses, load(folder), parts)
    with pytest.raises(DataError, match=r"\(dtype 'float32' there, 'bfloat16' now\)"):
        score_responses(responses, load(folder, dtype="bfloat16"), parts=parts)
    with pytest.raises(DataError, match=r"\(max_length 128 there, 50 now\)"):
        score_responses(responses, load(folder, max_length=50), parts=parts)
    other = make(seed=1)
    with pytest.raises(DataError, match=r"\(weights '\w+' there, '\w+' now\)"):
        score_responses(responses, load(other), parts=parts)
