"""Conversation -> token ids, pinned: the layouts of the paper's five models and two more.

The ids were worked out from the vocabularies of ``layouts.py`` and are read beside their tokens.
Real weights are out of reach here; ``test_hub.py`` is for machines that can fetch some.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from layouts import gemma_2, llama_3, mistral, qwen_2, save_model
from transformers import PreTrainedTokenizerFast

from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import RewardModel

HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]
TALK = [*HI, {"role": "user", "content": "go"}, {"role": "assistant", "content": ""}]
LLAMA = "PreTrainedTokenizerFast"


@dataclass(frozen=True)
class Golden:
    """A layout, and what must come out of it."""

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    tokenizer_class: str
    family: str
    n_bos: int
    pad: tuple[str, int]
    ids: list[int]
    tokens: str


LLAMA_TOKENS = (
    "<|start_header_id|> user <|end_header_id|> ĊĊ h i <|eot_id|> "
    "<|start_header_id|> assistant <|end_header_id|> ĊĊ o k <|eot_id|>"
)
LLAMA_IDS = [279, 258, 280, 276, 71, 72, 281, 279, 266, 280, 276, 78, 74, 281]
GOLDEN = {
    "Skywork-Reward-Llama-3.1-8B-v0.2": Golden(
        lambda: llama_3(bos_in_template=False),
        LLAMA,
        "llama",
        n_bos=1,
        pad=("<|finetune_right_pad_id|>", 283),
        ids=[277, *LLAMA_IDS],
        tokens=f"<|begin_of_text|> {LLAMA_TOKENS}",
    ),
    "RM-Mistral-7B": Golden(
        mistral,
        "LlamaTokenizer",
        "mistral",
        n_bos=1,
        pad=("[PAD]", 309),
        ids=[
            *(1, 259, 260, 76, 81, 86, 87, 261, 259, 270, 271),
            *(259, 260, 262, 76, 81, 86, 87, 261, 277, 273, 2),
        ],
        tokens="<s> ▁ [ <0x49> <0x4E> <0x53> <0x54> ] ▁ h i "
        "▁ [ / <0x49> <0x4E> <0x53> <0x54> ] o k </s>",
    ),
    "FsfairX-LLaMA3-RM-v0.1": Golden(
        lambda: llama_3(bos_in_template=True),
        LLAMA,
        "llama",
        n_bos=0,
        pad=("<|finetune_right_pad_id|>", 283),
        ids=LLAMA_IDS,
        tokens=LLAMA_TOKENS,
    ),
    "GRM-llama3-8B-distill": Golden(
        lambda: llama_3(bos_in_template=True),
        LLAMA,
        "llama",
        n_bos=1,
        pad=("<|finetune_right_pad_id|>", 283),
        ids=[277, *LLAMA_IDS],
        tokens=f"<|begin_of_text|> {LLAMA_TOKENS}",
    ),
    "BTRM_Qwen2_7b_0613": Golden(
        qwen_2,
        "Qwen2Tokenizer",
        "qwen2",
        n_bos=0,
        pad=("<|endoftext|>", 277),
        ids=[278, 258, 198, 71, 72, 279, 198, 278, 266, 198, 78, 74, 279, 198],
        tokens="<|im_start|> user Ċ h i <|im_end|> Ċ <|im_start|> assistant Ċ o k <|im_end|> Ċ",
    ),
    "Skywork-Reward-Gemma-2-27B-v0.2": Golden(
        gemma_2,
        "GemmaTokenizer",
        "gemma2",
        n_bos=1,
        pad=("<pad>", 0),
        ids=[2, 311, 293, 15, 272, 273, 312, 15, 311, 310, 15, 279, 275, 312, 15],
        tokens="<bos> <start_of_turn> user <0x0A> h i <end_of_turn> <0x0A> "
        "<start_of_turn> model <0x0A> o k <end_of_turn> <0x0A>",
    ),
    "GRM-llama3-8B-sftreg": Golden(  # a value head, with layers
        lambda: llama_3(bos_in_template=True),
        LLAMA,
        "llama",
        n_bos=1,
        pad=("<|finetune_right_pad_id|>", 283),
        ids=[277, *LLAMA_IDS],
        tokens=f"<|begin_of_text|> {LLAMA_TOKENS}",
    ),
}


def load(folder: Path, name: str, *, system_prompt: bool = True) -> RewardModel:
    golden = GOLDEN[name]
    value_head = {
        "v_head.summary.0.weight": torch.randn(16, 32),
        "v_head.summary.0.bias": torch.randn(16),
        "v_head.summary.2.weight": torch.randn(1, 16),
        "v_head.summary.2.bias": torch.randn(1),
    }
    save_model(
        folder / name,
        golden.tokenizer(),
        tokenizer_class=golden.tokenizer_class,
        family=golden.family,
        head=value_head if name == "GRM-llama3-8B-sftreg" else None,
    )
    return load_reward_model(
        str(folder / name), dtype="float32", device="cpu", system_prompt=system_prompt
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_a_conversation_becomes_exactly_these_ids(tmp_path: Path, name: str) -> None:
    golden = GOLDEN[name]
    model = load(tmp_path, name, system_prompt=False)
    ids = model.encode([HI])[0]
    assert ids == golden.ids
    assert model.tokenizer.convert_ids_to_tokens(ids) == golden.tokens.split(" ")


@pytest.mark.parametrize("name", GOLDEN)
def test_bos_stands_in_front_as_often_as_intended_and_nowhere_else(
    tmp_path: Path, name: str
) -> None:
    model = load(tmp_path, name)
    ids = model.encode([TALK])[0]
    n_bos = GOLDEN[name].n_bos
    if model.tokenizer.bos_token_id is None:
        assert n_bos == 0
        return
    assert ids.count(model.tokenizer.bos_token_id) == n_bos
    assert (ids[0] == model.tokenizer.bos_token_id) == bool(n_bos)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_padding_is_its_own_and_no_id_lies_outside_the_embedding(
    tmp_path: Path, name: str
) -> None:
    model = load(tmp_path, name)
    pad, pad_id = GOLDEN[name].pad
    assert (model.tokenizer.pad_token, model.tokenizer.pad_token_id) == (pad, pad_id)
    assert model.backbone.config.pad_token_id == pad_id  # type: ignore[union-attr]
    rows = model.backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
    assert len(model.tokenizer) == rows  # nothing was resized on the way
    assert max(model.encode([TALK])[0]) < rows
    assert pad_id not in model.encode([TALK])[0]


@pytest.mark.parametrize("name", sorted(set(GOLDEN) - {"BTRM_Qwen2_7b_0613"}))
def test_a_template_without_a_system_prompt_gets_none(tmp_path: Path, name: str) -> None:
    model = load(tmp_path, name)
    assert model.encode([HI])[0] == GOLDEN[name].ids
    assert model.warnings == ()


def test_a_system_prompt_of_the_template_is_named_and_can_be_taken_off(tmp_path: Path) -> None:
    name = "BTRM_Qwen2_7b_0613"
    with_it, without = (load(tmp_path, name, system_prompt=keep) for keep in (True, False))
    assert "You are a helpful assistant." in with_it.warnings[0]
    added = with_it.encode([HI])[0][: -len(GOLDEN[name].ids)]
    text = with_it.tokenizer.decode(added)
    assert text == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert with_it.encode([HI])[0] == added + without.encode([HI])[0]
    given = [{"role": "system", "content": "be kind"}, *HI]
    assert with_it.encode([given]) == without.encode([given])
    assert with_it.fingerprint() != without.fingerprint()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_response_can_be_read_back_from_the_ids(tmp_path: Path, name: str) -> None:
    model = load(tmp_path, name)
    text = "na\u00efve \u65e5\u672c x = [1]"
    ids = model.encode([[HI[0], {"role": "assistant", "content": text}]])[0]
    assert text in model.tokenizer.decode(ids)
