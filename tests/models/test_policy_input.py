"""What a policy reads, where its responses end, and models that are no policy."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from policy_builders import (
    CHATML_ANSWER,
    GREEDY,
    N_WORDS,
    answers_of,
    requests_of,
    texts_of,
    with_answer_template,
)

from charm_rm.data.prompts import as_messages
from charm_rm.data.tables import DataError
from charm_rm.models.local_policy import LocalPolicy, load_local_policy
from charm_rm.models.policies import Completion, Failure, Request, Sampling
from charm_rm.models.policy_input import encode_prompt

MakeModel = Callable[..., Path]


@pytest.fixture
def folder(make: MakeModel) -> Path:
    return with_answer_template(make("sound", causal=True, vocabulary=N_WORDS))


@pytest.fixture
def greedy(folder: Path) -> LocalPolicy:
    return load_local_policy(str(folder), sampling=GREEDY, dtype="float32", n_slots=4)


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


# Models that are no policy


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


@pytest.mark.parametrize("wrong", ["{{ 1 / 0 }}", "{{ messages[0].content + 1 }}"])
def test_a_template_that_goes_wrong_is_one_line(folder: Path, wrong: str) -> None:
    with pytest.raises(DataError, match=r"chat template refuses it \(.*; mend its roles or the"):
        load_local_policy(str(folder), sampling=GREEDY, chat_template=wrong)


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
