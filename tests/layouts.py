"""Tokenizers laid out as those of real reward models are, with small vocabularies.

The machinery is the real one: byte-level pairs (Llama 3, Qwen 2) and pairs of pieces with a marked
space and bytes for what is unknown (Mistral, Gemma 2), the special tokens and templates of each
family, the class that its ``tokenizer_config.json`` names. Only the merges are few: whole words for
the roles, single characters for everything else.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

ROLES = ("user", "assistant", "system", "model")
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2_SPLIT = LLAMA_3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
LLAMA_3_TURN = (
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN_2 = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
)


def llama_3(*, bos_in_template: bool) -> PreTrainedTokenizerFast:
    """Byte pairs, newlines together, a BOS put in front by the tokenizer."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    special += ["<|eot_id|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>"]
    tokenizer = _byte_pairs(LLAMA_3_SPLIT, special)
    _put_in_front(tokenizer, "<|begin_of_text|>")
    wrapped = _wrap(tokenizer, bos=special[0], eos="<|eot_id|>", pad="<|finetune_right_pad_id|>")
    wrapped.chat_template = ("{{ bos_token }}" if bos_in_template else "") + LLAMA_3_TURN
    return wrapped


def mistral() -> PreTrainedTokenizerFast:
    """Pieces with a marked space, a BOS by tokenizer and template, [PAD] as the last id."""
    tokenizer = _pieces(["<unk>", "<s>", "</s>"], prepend=True)
    tokenizer.add_special_tokens([AddedToken("[PAD]", special=True)])
    _put_in_front(tokenizer, "<s>")
    wrapped = _wrap(tokenizer, bos="<s>", eos="</s>", pad="[PAD]", unk="<unk>")
    wrapped.chat_template = MISTRAL
    return wrapped


def qwen_2() -> PreTrainedTokenizerFast:
    """Byte pairs, no BOS at all, and a template that says who the assistant is."""
    tokenizer = _byte_pairs(QWEN_2_SPLIT, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    wrapped = _wrap(tokenizer, bos=None, eos="<|im_end|>", pad="<|endoftext|>")
    wrapped.chat_template = QWEN_2
    return wrapped


def gemma_2() -> PreTrainedTokenizerFast:
    """Pieces with a marked space, a BOS by tokenizer and template, the assistant called model."""
    tokenizer = _pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], prepend=False)
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    _put_in_front(tokenizer, "<bos>")
    wrapped = _wrap(tokenizer, bos="<bos>", eos="<eos>", pad="<pad>", unk="<unk>")
    wrapped.chat_template = GEMMA_2
    return wrapped


def save_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    tokenizer_class: str,
    family: str = "llama",
    architecture: str | None = None,
    head: dict[str, torch.Tensor] | None = None,
    **config: Any,
) -> Path:
    """A tiny random model with this tokenizer, saved as the hub has it.

    Args:
        folder: Where to.
        tokenizer: One of those above.
        tokenizer_class: What ``tokenizer_config.json`` says, as in the real repository.
        family: ``llama``, ``mistral``, ``qwen2`` or ``gemma2``.
        architecture: What ``config.json`` says instead of the sequence classifier.
        head: Tensors of its head, in place of one linear output.
        config: More of the configuration.
    """
    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "llama": LlamaConfig,
        "mistral": MistralConfig,
        "qwen2": Qwen2Config,
        "gemma2": Gemma2Config,
    }
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    made = kinds[family](
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **{**sizes, **heads, **config},
    )
    AutoModelForSequenceClassification.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _edit(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    if architecture is not None:
        _edit(folder / "config.json", architectures=[architecture])
    if head is not None:
        tensors = load_file(folder / "model.safetensors")
        del tensors["score.weight"]
        save_file(tensors | head, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _byte_pairs(split: str, special: list[str]) -> Tokenizer:
    vocabulary = {piece: n for n, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = _merge_whole([*ROLES, "ĊĊ"], vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _pieces(special: list[str], *, prepend: bool) -> Tokenizer:
    vocabulary = {piece: n for n, piece in enumerate(special)}
    for piece in [f"<0x{byte:02X}>" for byte in range(256)]:
        vocabulary[piece] = len(vocabulary)
    letters = [*"▁[]/", *map(chr, range(ord("a"), ord("z") + 1))]
    for piece in letters:
        vocabulary[piece] = len(vocabulary)
    merges = _merge_whole(ROLES, vocabulary)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    marks = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), *marks] if prepend else marks
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _merge_whole(words: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Merges that make whole words of their letters, from the left."""
    merges = []
    for word in words:
        for end in range(1, len(word)):
            pair = (word[:end], word[end])
            if word[: end + 1] not in vocabulary:
                vocabulary[word[: end + 1]] = len(vocabulary)
                merges.append(pair)
    return merges


def _put_in_front(tokenizer: Tokenizer, bos: str) -> None:
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def _wrap(
    tokenizer: Tokenizer, *, bos: str | None, eos: str, pad: str, unk: str | None = None
) -> PreTrainedTokenizerFast:
    kind: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = kind(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, unk_token=unk
    )
    return wrapped
