"""Conversations as ids: one template, one BOS or none, nothing added, nothing lost."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from charm_rm.data.tables import DataError
from charm_rm.models.encoding import (
    encode_conversations,
    expects_bos,
    text_before_first_turn,
)

TokenizerOf = Callable[[str], PreTrainedTokenizerFast]

HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]
EMPTY = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": ""}]
SYSTEM = [{"role": "system", "content": "You are kind"}, *HELLO]
LAYOUTS = ("llama", "mistral", "pad_is_eos", "qwen", "smol")

# Written by hand from the vocabulary in conftest.py: <s> 1, </s> 2, [INST] 3, [/INST] 4,
# <|im_start|> 5, <|im_end|> 6, user 8, assistant 9, system 10, hello 11, world 12, You 13, are 14,
# kind 15.
GOLDEN = {
    "llama": [1, 5, 8, 11, 6, 5, 9, 12, 6],
    "mistral": [1, 3, 11, 4, 12, 2],
    "pad_is_eos": [1, 3, 11, 4, 12, 2],
    "smol": [5, 10, 13, 14, 15, 6, 5, 8, 11, 6, 5, 9, 12, 6],
}


def encode(
    tokenizer: PreTrainedTokenizerFast, *conversations: list[dict[str, str]]
) -> list[list[int]]:
    return encode_conversations(conversations, tokenizer, bos=expects_bos(tokenizer))


@pytest.mark.parametrize("layout", GOLDEN)
def test_ids_are_those_worked_out_by_hand(tokenizer_of: TokenizerOf, layout: str) -> None:
    assert encode(tokenizer_of(layout), HELLO) == [GOLDEN[layout]]


def test_a_tokenizer_without_bos_gives_the_template_and_no_more(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("qwen")
    ids = encode(tokenizer, HELLO)[0]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        *("<|im_start|>", "user", "Ġhello", "<|im_end|>", "Ċ"),
        *("<|im_start|>", "assistant", "Ġworld", "<|im_end|>", "Ċ"),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bos_stands_in_front_once_or_never_however_often_template_and_tokenizer_write_it(
    tokenizer_of: TokenizerOf, layout: str
) -> None:
    tokenizer = tokenizer_of(layout)
    if tokenizer.bos_token_id is None:
        assert not expects_bos(tokenizer)
        return
    with_bos = encode_conversations([HELLO], tokenizer, bos=True)[0]
    without = encode_conversations([HELLO], tokenizer, bos=False)[0]
    assert with_bos == [tokenizer.bos_token_id, *without]
    assert without[0] != tokenizer.bos_token_id


def test_a_template_that_writes_bos_twice_still_gives_one(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("mistral")
    template = "{{ bos_token }}" + str(tokenizer.chat_template)
    ids = encode_conversations([HELLO], tokenizer, bos=True, template=template)
    assert ids == [GOLDEN["mistral"]]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("llama", True), ("mistral", True), ("pad_is_eos", True), ("qwen", False), ("smol", True)],
)
def test_whether_a_bos_is_expected_is_read_off_tokenizer_and_template(
    tokenizer_of: TokenizerOf, layout: str, expected: bool
) -> None:
    assert expects_bos(tokenizer_of(layout)) is expected


def test_a_bos_that_the_tokenizer_does_not_have_is_refused(tokenizer_of: TokenizerOf) -> None:
    with pytest.raises(ValueError, match="tokenizer has none"):
        encode_conversations([HELLO], tokenizer_of("qwen"), bos=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_conversations_are_encoded_as_each_alone(
    tokenizer_of: TokenizerOf, layout: str
) -> None:
    tokenizer = tokenizer_of(layout)
    longer = [*HELLO, *HELLO]
    together = encode(tokenizer, longer, HELLO, EMPTY)
    assert together == [encode(tokenizer, one)[0] for one in (longer, HELLO, EMPTY)]


def test_no_conversations_are_no_ids(tokenizer_of: TokenizerOf) -> None:
    assert encode(tokenizer_of("llama")) == []


def test_an_empty_response_is_an_empty_assistant_turn(tokenizer_of: TokenizerOf) -> None:
    assert encode(tokenizer_of("llama"), EMPTY) == [[1, 5, 8, 11, 6, 5, 9, 6]]


def test_a_system_prompt_of_the_user_is_kept(tokenizer_of: TokenizerOf) -> None:
    assert encode(tokenizer_of("smol"), SYSTEM) == encode(tokenizer_of("smol"), HELLO)
    assert encode(tokenizer_of("llama"), SYSTEM) == [
        [1, 5, 10, 13, 14, 15, 6, 5, 8, 11, 6, 5, 9, 12, 6]
    ]


def test_no_generation_prompt_follows(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("llama")
    template = str(tokenizer.chat_template) + "{% if add_generation_prompt %}world{% endif %}"
    ids = encode_conversations([HELLO], tokenizer, bos=True, template=template)
    assert ids == [GOLDEN["llama"]]


@pytest.mark.parametrize("layout", ["llama", "mistral", "pad_is_eos", "qwen"])
def test_a_template_that_adds_nothing_is_not_suspected(
    tokenizer_of: TokenizerOf, layout: str
) -> None:
    assert text_before_first_turn(tokenizer_of(layout)) == ""


def test_an_injected_system_prompt_is_found(tokenizer_of: TokenizerOf) -> None:
    assert text_before_first_turn(tokenizer_of("smol")) == "system You are kind"


def test_a_refusal_by_the_template_is_one_line(tokenizer_of: TokenizerOf) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"template refuses it \(roles must alternate\)"):
        encode_conversations([HELLO], tokenizer_of("llama"), bos=True, template=template)


def test_encoding_checks_every_conversation(tokenizer_of: TokenizerOf) -> None:
    with pytest.raises(DataError, match="conversation 1: ends with 'user'"):
        encode(tokenizer_of("llama"), HELLO, HELLO[:1])
