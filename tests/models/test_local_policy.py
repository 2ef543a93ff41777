"""The local engine: transformers' own answers, whatever else is being written at the time."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast

from charm_rm.data.prompts import as_messages
from charm_rm.data.tables import DataError
from charm_rm.models import slot_attention
from charm_rm.models.decoding import Job, Lane, run_lanes
from charm_rm.models.local_policy import LocalPolicy, load_local_policy
from charm_rm.models.policies import Completion, Failure, Request, Sampling, request_seed
from charm_rm.models.policy_input import encode_prompt

MakeModel = Callable[..., Path]
TokenizerOf = Callable[[str], PreTrainedTokenizerFast]

GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
DRAWN = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=24)
N_WORDS = 56  # of the tokenizers that know whole words
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
CHATML_ANSWER = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def requests_of(n: int, *, seed: int = 0, system: str | None = None) -> list[Request]:
    """Prompts of 1 to 29 words."""
    before = [{"role": "system", "content": system}] if system else []
    asked = []
    for at in range(n):
        text = " ".join(f"w{(at * 7 + word) % 40}" for word in range(1 + at * 5 % 29))
        asked.append(
            Request(f"p{at}", 0, (*before, *as_messages(text)), request_seed(seed, f"p{at}", 0))
        )
    return asked


def answers_of(policy: LocalPolicy, requests: Iterable[Request]) -> dict[str, Completion]:
    found = {}
    for outcome in policy(requests):
        assert isinstance(outcome, Completion), outcome
        assert outcome.request.prompt_id not in found
        found[outcome.request.prompt_id] = outcome
    return found


def texts_of(policy: LocalPolicy, requests: Iterable[Request]) -> dict[str, str]:
    return {name: one.text for name, one in answers_of(policy, requests).items()}


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


def with_answer_template(folder: Path) -> Path:
    (folder / "chat_template.jinja").write_text(CHATML_ANSWER)
    return folder


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


# Where answers end


def test_a_response_ends_at_any_stop_token_of_the_generation_config(
    greedy: LocalPolicy, folder: Path
) -> None:
    request, whole = next(
        (one.request, words)
        for one in answers_of(greedy, requests_of(40)).values()
        if len(words := one.text.split()) == one.n_tokens and len(set(words[:4])) == 4
    )
    place = 3
    stop = greedy.tokenizer.get_vocab()[whole[place]]
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, stop]}))
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    assert policy.stop_ids == {2, stop, 6}
    (answer,) = answers_of(policy, [request]).values()
    assert answer.text.split() == whole[:place]
    assert (answer.finish_reason, answer.n_tokens) == ("stop", place + 1)


def test_the_special_token_behind_the_assistants_turn_is_a_stop_token(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(CHATML_ANSWER.replace("<|im_end|>", "[/INST]"))
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    assert policy.stop_ids == {2, 4, 6}  # generation config, template, tokenizer
    (folder / "chat_template.jinja").write_text(CHATML_ANSWER.replace("<|im_end|>", "kind"))
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    assert policy.stop_ids == {2, 6}  # a word that a response may hold


def test_a_response_at_its_longest_says_so(greedy: LocalPolicy) -> None:
    requests = requests_of(3)
    policy = replace(greedy, sampling=replace(GREEDY, max_new_tokens=1))
    assert {(one.finish_reason, one.n_tokens) for one in answers_of(policy, requests).values()} == {
        ("length", 1)
    }


def test_reasoning_that_the_template_opens_stands_in_its_tags(folder: Path) -> None:
    opened = CHATML_ANSWER.replace("assistant {% endif", "assistant <think>\n{% endif")
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32", chat_template=opened)
    assert all(text.startswith("<think>\n") for text in texts_of(policy, requests_of(2)).values())


# The input


def test_special_tokens_are_those_of_the_template_once(make: MakeModel) -> None:
    """RM-Mistral's layout: template and tokenizer both write a BOS."""
    folder = make("mistral", causal=True, vocabulary=N_WORDS)
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    prompt = as_messages("hello world")
    encode = policy.tokenizer
    assert encode_prompt(prompt, encode, template=policy.template)[0] == [1, 3, 11, 12, 4]
    doubled = "<s> " + policy.template
    assert encode_prompt(prompt, encode, template=doubled)[0] == [1, 3, 11, 12, 4]
    assert policy.warnings == ()


def test_a_bos_that_only_the_tokenizer_writes_is_left_out_and_told(folder: Path) -> None:
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    ids, _ = encode_prompt(as_messages("hello"), policy.tokenizer, template=policy.template)
    assert ids == [5, 8, 11, 6, 5, 9]  # up to the header of the answer
    assert len(policy.warnings) == 1
    assert "puts '<s>' before a text, but the chat template writes none" in policy.warnings[0]


def test_what_the_generation_config_asks_for_beyond_the_sampling_is_told(folder: Path) -> None:
    path = folder / "generation_config.json"
    more = {"repetition_penalty": 1.05, "top_k": 20, "do_sample": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    policy = load_local_policy(str(folder), sampling=GREEDY, dtype="float32")
    assert "asks for top_k 20, repetition_penalty 1.05, which are not applied" in policy.warnings[0]


def test_a_prompt_that_does_not_fit_fails_and_says_so(greedy: LocalPolicy) -> None:
    requests = requests_of(8)
    lengths = {
        one.request.prompt_id: one.n_prompt_tokens for one in answers_of(greedy, requests).values()
    }
    longest = max(lengths.values(), key=lambda n: n or 0) or 0
    exact = replace(greedy, context_length=longest + 24)
    assert len(answers_of(exact, requests)) == 8
    short = replace(greedy, context_length=longest + 23)
    outcomes = {one.request.prompt_id: one for one in short(requests)}
    failed = {name for name, one in outcomes.items() if isinstance(one, Failure)}
    assert failed == {name for name, n in lengths.items() if n == longest}
    reason = outcomes[failed.pop()].reason  # type: ignore[union-attr]
    assert reason == (
        f"the prompt's {longest} tokens and 24 new ones are more than the model's context of "
        f"{longest + 23}; give a smaller --max-new-tokens, or drop the prompt"
    )


def test_prompts_that_no_template_takes_fail_and_the_others_are_answered(folder: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    policy = load_local_policy(
        str(folder), sampling=GREEDY, dtype="float32", chat_template=refusing + CHATML_ANSWER
    )
    bad = requests_of(1, system="You are kind")
    empty = [Request("e", 0, ({"role": "user", "content": " "},), 0)]
    ended = [Request("f", 0, ({"role": "assistant", "content": "Hi"},), 0)]
    outcomes = list(policy([*bad, *empty, *ended, *requests_of(2)[1:]]))
    assert [type(one) for one in outcomes] == [Failure, Failure, Failure, Completion]
    reasons = [one.reason for one in outcomes if isinstance(one, Failure)]
    assert "refuses it (no system)" in reasons[0]
    assert "message 0 (user) is empty" in reasons[1]
    assert "ends with 'assistant'" in reasons[2]


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


# Models that are no policy, or of another make


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
    assert answers_of(policy, [request])["p0"] == generated(folder, policy, request)


def test_a_reward_model_is_refused(make: MakeModel) -> None:
    with pytest.raises(DataError, match=r"names LlamaForSequenceClassification, which writes no"):
        load_local_policy(str(make()), sampling=GREEDY)


def test_a_model_without_a_template_says_how_to_give_one(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match=r"no chat template, .*, or give one with --chat-template"):
        load_local_policy(str(folder), sampling=GREEDY)
    policy = load_local_policy(
        str(folder), sampling=GREEDY, dtype="float32", chat_template=CHATML_ANSWER
    )
    assert len(answers_of(policy, requests_of(2))) == 2


def test_a_template_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"chat template refuses it \(.*; mend its roles or the"):
        load_local_policy(str(folder), sampling=GREEDY, chat_template="{% for m in %}")


def test_pickled_and_missing_weights_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 tensors of the model are not .*model\.norm\.weight"):
        load_local_policy(str(folder), sampling=GREEDY)
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled weights are not loaded"):
        load_local_policy(str(folder), sampling=GREEDY)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="is an adapter; merge it into its base"):
        load_local_policy(str(tmp_path), sampling=GREEDY)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(temperature=-0.1), "temperature is -0.1; give 0 or more"),
        (Sampling(temperature=float("nan")), "temperature is nan; give 0 or more"),
        (Sampling(top_p=0.0), "top_p is 0.0; give more than 0 and at most 1"),
        (Sampling(max_new_tokens=0), "max_new_tokens is 0; give 1 or more"),
    ],
)
def test_sampling_out_of_its_range_is_refused(sampling: Sampling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_local_policy("./unread", sampling=sampling)


def test_numbers_that_are_none_end_the_run(greedy: LocalPolicy) -> None:
    with torch.no_grad():
        greedy.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="logits are not numbers in this precision; try --dtype"):
        list(greedy(requests_of(2)))
