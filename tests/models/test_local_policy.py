"""The local engine: transformers' own answers, whatever else is being written at the time."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_builders import (
    DRAWN,
    GREEDY,
    N_WORDS,
    answers_of,
    requests_of,
    texts_of,
    with_answer_template,
)
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast

from charm_rm.data.tables import DataError
from charm_rm.models import slot_attention
from charm_rm.models.decoding import Job, Lane, run_lanes
from charm_rm.models.local_policy import LocalPolicy, load_local_policy
from charm_rm.models.policies import Completion, Request
from charm_rm.models.policy_input import encode_prompt

MakeModel = Callable[..., Path]
TokenizerOf = Callable[[str], PreTrainedTokenizerFast]

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "head_dim": 8,
}
HEADS: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def generated(folder: Path, policy: LocalPolicy, request: Request) -> Completion:
    """What transformers' ``generate`` answers greedily, from a model of its own loading."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids, _ = encode_prompt(request.messages, policy.tokenizer, template=policy.template)
    with torch.inference_mode():
        new = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=policy.sampling.max_new_tokens,
            eos_token_id=sorted(policy.stop_ids),
            pad_token_id=0,
        )[0, len(ids) :].tolist()
    stopped = new[-1] in policy.stop_ids
    text = policy.tokenizer.decode(new, skip_special_tokens=True)
    reason = "stop" if stopped else "length"
    return Completion(request, str(text), reason, n_prompt_tokens=len(ids), n_tokens=len(new))


def make_causal(folder: Path, config: Any, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(make: MakeModel) -> Path:
    return with_answer_template(make("sound", causal=True, vocabulary=N_WORDS))


@pytest.fixture
def greedy(folder: Path) -> LocalPolicy:
    return load_local_policy(str(folder), sampling=GREEDY, dtype="float32", n_slots=4)


@pytest.fixture
def drawn(folder: Path) -> LocalPolicy:
    return load_local_policy(str(folder), sampling=DRAWN, dtype="float32", n_slots=4)


# The answers


@pytest.mark.parametrize("layout", ["sound", "mistral", "qwen", "smol"])
def test_greedy_answers_are_those_of_transformers(
    make: MakeModel, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_attention, "GROWTH", 8)  # slots grow while they are in use
    folder = make(layout, causal=True, vocabulary=320 if layout == "qwen" else N_WORDS)
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32", n_slots=3)
    assert policy.n_slots == 3
    requests = requests_of(8)
    answers = answers_of(policy, requests)
    for request in requests:
        assert answers[request.prompt_id] == generated(folder, policy, request)


def test_windows_and_bounded_products_are_those_of_transformers(
    tokenizer_of: TokenizerOf, tmp_path: Path
) -> None:
    config = Gemma2Config(
        vocab_size=N_WORDS,
        sliding_window=6,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
        query_pre_attn_scalar=8,
        **SIZES,
        **HEADS,
    )
    folder = make_causal(tmp_path / "gemma2", config, tokenizer_of("sound"))
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32", n_slots=3)
    assert policy.n_slots == 3
    for request in (requests := requests_of(6)):
        assert answers_of(policy, requests)[request.prompt_id] == generated(folder, policy, request)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_answer_depends_on_nothing_but_its_prompt_and_seed(folder: Path, dtype: str) -> None:
    policy = load_local_policy(str(folder), sampling=DRAWN, dtype=dtype, n_slots=4)
    requests = requests_of(14)
    answers = texts_of(policy, requests)
    assert texts_of(policy, requests[::-1]) == answers
    assert {
        name: text for one in requests for name, text in texts_of(policy, [one]).items()
    } == answers
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert texts_of(policy, requests) == answers
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n_slots", [1, 7, 32])
def test_answers_are_the_same_from_any_number_of_slots(drawn: LocalPolicy, n_slots: int) -> None:
    requests = requests_of(10)
    assert texts_of(replace(drawn, n_slots=n_slots), requests) == texts_of(drawn, requests)


def test_transformers_draws_the_same_with_the_same_seeds(drawn: LocalPolicy, folder: Path) -> None:
    """The engine for models that no slots hold: `generate`, with our draws."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    alone = replace(drawn, model=plain, n_slots=0)
    requests = requests_of(8)
    assert answers_of(alone, requests) == answers_of(drawn, requests)


def test_another_seed_draws_another_answer(drawn: LocalPolicy) -> None:
    first = texts_of(drawn, requests_of(6))
    other = texts_of(drawn, requests_of(6, seed=1))
    assert all(first[name] != other[name] for name in first)


def test_all_slots_read_at_once_give_the_same(folder: Path) -> None:
    """The accelerator's attention: padded to the longest, and masked."""
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    jobs = []
    for number, request in enumerate(requests_of(9)):
        ids, _ = encode_prompt(request.messages, policy.tokenizer, template=policy.template)
        jobs.append(Job(number, ids, request.seed))
    found = []
    for padded in (False, True):
        lane = Lane(
            policy.model,
            n_slots=4,
            sampling=GREEDY,
            stop_ids=policy.stop_ids,
            padded=padded,
        )
        written = [one for some in run_lanes([lane], iter(jobs)) for one in some]
        found.append({one.job.number: (one.ids, one.stopped) for one in written})
    assert found[0] == found[1]
    assert len(found[0]) == 9


def test_positions_that_stretch_with_the_input_run_one_after_the_other(
    tokenizer_of: TokenizerOf, tmp_path: Path
) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = LlamaConfig(
        vocab_size=N_WORDS, max_position_embeddings=64, rope_parameters=rope, **SIZES, **HEADS
    )
    folder = make_causal(tmp_path / "stretching", config, tokenizer_of("sound"))
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32", n_slots=4)
    assert policy.n_slots == 0
    assert "one after the other" in policy.warnings[-1]
    (request,) = requests_of(1)
    answer = generated(folder, policy, request)
    assert answers_of(policy, [request])["p0"] == answer
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 9.0}))
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    assert generated(folder, policy, request) != answer
    assert answers_of(policy, [request])["p0"] == answer  # the penalty is told of, not applied


# The run


def test_requests_are_taken_as_slots_come_free(greedy: LocalPolicy) -> None:
    taken = []

    def endless() -> Iterator[Request]:
        for request in requests_of(1000):
            taken.append(request)
            yield request

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        running = greedy(endless())
        next(running)
        running.close()  # type: ignore[attr-defined]
    finally:
        torch.set_num_threads(before)
    assert 8 <= len(taken) <= 16


def test_no_requests_no_outcomes(greedy: LocalPolicy) -> None:
    assert list(greedy([])) == []


def test_a_policy_says_what_decides_its_answers(folder: Path, make: MakeModel) -> None:
    def fingerprint(place: Path, **more: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"sampling": GREEDY, "dtype": "float32"} | more
        return load_local_policy(str(place), **options).fingerprint()

    first = fingerprint(folder)
    assert fingerprint(folder, n_slots=3) == first
    other = with_answer_template(make("sound", causal=True, vocabulary=N_WORDS, name="b", seed=1))
    assert fingerprint(other)["weights"] != first["weights"]
    changes = {
        "template": fingerprint(folder, chat_template="{{ messages[-1].content }}"),
        "dtype": fingerprint(folder, dtype="bfloat16"),
        "temperature": fingerprint(folder, sampling=replace(GREEDY, temperature=0.1)),
    }
    for name, changed in changes.items():
        assert {key for key in first if changed[key] != first[key]} == {name}


def test_numbers_that_are_none_end_the_run(greedy: LocalPolicy) -> None:
    with torch.no_grad():
        greedy.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="logits are not numbers in this precision; try --dtype"):
        list(greedy(requests_of(2)))
