"""Keys and values of growing sequences in fixed places, and the attention that reads them there.

A sequence has a slot. Its prompt goes through the model alone, at its own length; then it takes
part, with one token at a time, in steps of all slots together. A step has always as many rows as
there are slots, so a matrix product rounds a row alike whatever stands in the others; and on a CPU
attention reads each slot at its own length, without padding. On an accelerator, where many small
kernels cost more than padding, it reads all slots to the longest and masks the rest.

Transformers runs the model, without a cache of its own. Models whose attention it does not hand
out, or whose positions stretch with the longest input, are found by a trial and left alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from charm_rm.models.packing import STRETCHING_ROPE

ATTENTION = "charm_rm_slots"  # the name under which transformers finds `slot_attention`
GROWTH = 256  # tokens by which slots grow, at least
KINDS_OF_LAYERS = {"full_attention", "sliding_attention"}
_PROBE = ((5, 9, 2, 7, 3, 8, 4), (5, 9, 2, 6), (1, 7, 4, 2, 9, 3, 8, 6, 5, 2))


@dataclass
class SlotCache:
    """Keys and values of every layer, shape (n_slots, n_key_heads, capacity, width).

    Attributes:
        n_slots: Sequences that have a place.
        capacity: Tokens that each place holds.
        keys: By layer; a layer has none before its first prompt.
        values: By layer.
    """

    n_slots: int
    capacity: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def reserve(self, n_tokens: int) -> None:
        """Makes room for sequences of this many tokens; what is stored stays."""
        if n_tokens <= self.capacity:
            return
        wanted = max(n_tokens, self.capacity * 5 // 4)
        self.capacity = -(-wanted // GROWTH) * GROWTH
        for stored in (self.keys, self.values):
            for layer, old in stored.items():  # one layer at a time: the rest need no second place
                stored[layer] = self._room_like(old)
                stored[layer][:, :, : old.shape[2]] = old

    def _room_like(self, tensor: Tensor) -> Tensor:
        """Zeros, for what is masked must be a number too."""
        _, n_heads, _, width = tensor.shape
        return tensor.new_zeros(self.n_slots, n_heads, self.capacity, width)

    def store_prompt(self, layer: int, slot: int, key: Tensor, value: Tensor) -> None:
        """Puts those of a whole prompt, shape (1, n_key_heads, n, width), in a slot."""
        for stored, new in ((self.keys, key), (self.values, value)):
            if layer not in stored:
                stored[layer] = self._room_like(new)
            stored[layer][slot, :, : new.shape[2]] = new[0]

    def store_tokens(self, layer: int, places: Tensor, key: Tensor, value: Tensor) -> None:
        """Puts those of one token a slot, shape (n_slots, n_key_heads, 1, width), in places."""
        rows = torch.arange(self.n_slots, device=places.device)
        for stored, new in ((self.keys, key), (self.values, value)):
            stored[layer][rows, :, places] = new[:, :, 0]


@dataclass(frozen=True)
class PromptPass:
    """A pass of one prompt, whose keys and values go to a slot."""

    cache: SlotCache
    slot: int


@dataclass(frozen=True)
class StepPass:
    """A pass of one token a slot.

    Attributes:
        cache: Where the keys and values are.
        lengths: Tokens of each sequence, the new one included; 0 for an empty slot.
        places: Where each new token goes, shape (n_slots,); 0 for an empty slot.
        padded: Whether all slots are read at once, to the longest.
    """

    cache: SlotCache
    lengths: Sequence[int]
    places: Tensor
    padded: bool


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    slots: PromptPass | StepPass,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention to what a slot holds, as transformers calls it.

    Args:
        module: The attention layer, which knows its ``layer_idx``.
        query: Shape (n_rows, n_heads, n_tokens, width).
        key: Shape (n_rows, n_key_heads, n_tokens, width); ``value`` alike.
        value: See ``key``.
        attention_mask: None: a pass says what sees what.
        slots: The pass, of one prompt or of one token a slot.
        scaling: Factor of the products of queries and keys.
        softcap: Bound of the products, by a hyperbolic tangent, where a model has one.
        sliding_window: Tokens that a token sees, itself included; None for all before it.
        more: What transformers' own attention takes.

    Returns:
        Shape (n_rows, n_tokens, n_heads, width), and None for the weights.

    Raises:
        ValueError: If there is a mask, or attention of another kind is asked for.

    Example:
        >>> layer, tokens = nn.Module(), torch.eye(3).view(1, 1, 3, 3)
        >>> layer.layer_idx = 0
        >>> cache = SlotCache(n_slots=1)
        >>> cache.reserve(4)
        >>> out, _ = slot_attention(layer, tokens, tokens, tokens, None, slots=PromptPass(cache, 0))
        >>> out[0, :, 0].argmax(dim=-1).tolist()
        [0, 1, 2]
        >>> step = StepPass(cache, lengths=[4], places=torch.tensor([3]), padded=False)
        >>> last = torch.full((1, 1, 1, 3), 2.0)
        >>> slot_attention(layer, last, last, last, None, slots=step)[0].shape
        torch.Size([1, 1, 1, 3])
    """
    unknown = {name for name in ("position_bias", "s_aux") if more.get(name) is not None}
    if attention_mask is not None or unknown:
        raise ValueError(f"attention takes no mask here, nor {', '.join(unknown) or 'a cache'}")
    rule = _Rule(scaling=scaling, softcap=softcap, window=sliding_window)
    layer, cache = int(module.layer_idx), slots.cache  # type: ignore[arg-type]
    if isinstance(slots, PromptPass):
        cache.store_prompt(layer, slots.slot, key, value)
        return _attend_causally(query, key, value, rule).transpose(1, 2), None
    cache.store_tokens(layer, slots.places, key, value)
    # The queries that share a key head stand behind each other: no key is read twice.
    packed = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
    attend = _attend_padded if slots.padded else _attend_each
    out = attend(packed, cache.keys[layer], cache.values[layer], slots, rule)
    return out.reshape(query.shape[0], 1, query.shape[1], -1), None


@dataclass(frozen=True)
class _Rule:
    """How a layer attends."""

    scaling: float | None
    softcap: float | None
    window: int | None

    def begin(self, length: int) -> int:
        """First token that the last of a sequence sees."""
        return 0 if self.window is None else max(0, length - self.window)


def _attend_each(
    query: Tensor, keys: Tensor, values: Tensor, step: StepPass, rule: _Rule
) -> Tensor:
    """One token a slot, each slot by itself; (n_slots, n_key_heads, n_shared, width)."""
    parts = []
    for slot, length in enumerate(step.lengths):
        own = slice(slot, slot + 1)
        seen = slice(rule.begin(length), max(length, 1))
        parts.append(_attend(query[own], keys[own, :, seen], values[own, :, seen], None, rule))
    return torch.cat(parts)


def _attend_padded(
    query: Tensor, keys: Tensor, values: Tensor, step: StepPass, rule: _Rule
) -> Tensor:
    """The same for all slots at once; what a token does not see is masked."""
    longest = max(*step.lengths, 1)
    places, last = torch.arange(longest, device=query.device), step.places[:, None]
    sees = places <= last
    if rule.window is not None:
        sees &= places > last - rule.window
    mask = sees[:, None, None]
    return _attend(query, keys[:, :, :longest], values[:, :, :longest], mask, rule)


def _attend_causally(query: Tensor, key: Tensor, value: Tensor, rule: _Rule) -> Tensor:
    """A whole prompt; shape (1, n_heads, n_tokens, width)."""
    n = query.shape[2]
    if rule.softcap is None and rule.begin(n) == 0:
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=rule.scaling, enable_gqa=True
        )
    sees = torch.ones(n, n, dtype=torch.bool, device=query.device).tril()
    if rule.window is not None:
        sees &= ~sees.tril(-rule.window)
    n_shared = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(n_shared, dim=1) for tensor in (key, value))
    return _attend(query, key, value, sees, rule)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rule: _Rule) -> Tensor:
    if rule.softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=rule.scaling)
    scale = rule.scaling if rule.scaling is not None else query.shape[-1] ** -0.5
    products = torch.tanh(query @ key.transpose(2, 3) * scale / rule.softcap) * rule.softcap
    if mask is not None:
        products = products.masked_fill(~mask, float("-inf"))
    return torch.softmax(products, dim=-1, dtype=torch.float32).to(query.dtype) @ value


@torch.inference_mode()
def prompt_logits(model: Any, ids: Sequence[int], *, cache: SlotCache, slot: int) -> Tensor:
    """Logits behind a prompt, whose keys and values are then in a slot.

    Args:
        model: One that `enable_slots` found ready.
        ids: Token ids.
        cache: With room for them.
        slot: Which.

    Returns:
        Shape (1, n_tokens).

    Example:
        >>> from transformers import AutoModelForCausalLM, LlamaConfig
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
        >>> config = LlamaConfig(vocab_size=32, num_attention_heads=2, **sizes)
        >>> model = AutoModelForCausalLM.from_config(config).eval()
        >>> cache = SlotCache(n_slots=1)
        >>> enable_slots(model)
        True
        >>> cache.reserve(3)
        >>> prompt_logits(model, [1, 2, 3], cache=cache, slot=0).shape
        torch.Size([1, 32])
    """
    logits: Tensor = model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        position_ids=torch.arange(len(ids), device=model.device)[None],
        use_cache=False,
        logits_to_keep=1,
        slots=PromptPass(cache, slot),
    ).logits[:, -1]
    return logits


@torch.inference_mode()
def step_logits(
    model: Any, ids: Sequence[int], *, cache: SlotCache, lengths: Sequence[int], padded: bool
) -> Tensor:
    """Logits behind one more token of every slot.

    Args:
        model: One that `enable_slots` found ready.
        ids: The token of each slot; any for an empty one.
        cache: With room for them.
        lengths: Tokens of each sequence, the new one included; 0 for an empty slot.
        padded: Whether attention reads all slots at once, to the longest.

    Returns:
        Shape (n_slots, n_tokens); the rows of empty slots mean nothing.

    Example:
        >>> from transformers import AutoModelForCausalLM, LlamaConfig
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
        >>> config = LlamaConfig(vocab_size=32, num_attention_heads=2, **sizes)
        >>> model = AutoModelForCausalLM.from_config(config).eval()
        >>> cache = SlotCache(n_slots=2)
        >>> enable_slots(model)
        True
        >>> cache.reserve(4)
        >>> _ = prompt_logits(model, [1, 2, 3], cache=cache, slot=1)
        >>> step_logits(model, [0, 4], cache=cache, lengths=[0, 4], padded=False).shape
        torch.Size([2, 32])
    """
    places = torch.tensor([max(length - 1, 0) for length in lengths], device=model.device)
    logits: Tensor = model(
        input_ids=torch.tensor(list(ids), device=model.device)[:, None],
        position_ids=places[:, None],
        use_cache=False,
        logits_to_keep=1,
        slots=StepPass(cache, lengths, places, padded),
    ).logits[:, -1]
    return logits


def enable_slots(model: Any) -> bool:
    """Makes a causal language model ready for slots, if that changes nothing about its logits.

    Args:
        model: As transformers loads it, in its precision and on its device; its attention is
            replaced, unless the trial fails.

    Returns:
        Whether it is ready. Otherwise it runs as before.

    Example:
        >>> from transformers import AutoModelForCausalLM, LlamaConfig
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
        >>> config = LlamaConfig(vocab_size=32, num_attention_heads=2, **sizes)
        >>> model = AutoModelForCausalLM.from_config(config).eval()
        >>> enable_slots(model)
        True
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - KINDS_OF_LAYERS or _stretches(getattr(config, "rope_parameters", None) or {}):
        return False
    before = model.config._attn_implementation
    try:
        expected = [_logits_alone(model, ids) for ids in _PROBE]
        model.set_attn_implementation(ATTENTION)
        found = [_logits_in_slots(model, padded=padded) for padded in (False, True)]
        if all(map(_alike, [*expected, *expected], [row for rows in found for row in rows])):
            return True
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        pass  # attention of another make; it runs as transformers runs it
    model.set_attn_implementation(before)
    return False


def _stretches(rope: Mapping[str, Any]) -> bool:
    """Whether positions depend on the longest input; some models have a rule by kind of layer."""
    rules = [rope, *(rule for rule in rope.values() if isinstance(rule, Mapping))]
    return any(rule.get("rope_type") in STRETCHING_ROPE for rule in rules)


@torch.inference_mode()
def _logits_alone(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits at the end of a sequence, as transformers itself computes them."""
    logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1]
    return logits


def _logits_in_slots(model: Any, *, padded: bool) -> list[Tensor]:
    """The same for all trials together, the last two tokens of each in steps."""
    cache = SlotCache(n_slots=len(_PROBE))
    cache.reserve(max(map(len, _PROBE)))
    for slot, ids in enumerate(_PROBE):
        prompt_logits(model, ids[:-2], cache=cache, slot=slot)
    for at in (-2, -1):
        lengths = [len(ids) + at + 1 for ids in _PROBE]
        tokens = [ids[at] for ids in _PROBE]
        logits = step_logits(model, tokens, cache=cache, lengths=lengths, padded=padded)
    return list(logits)


def _alike(one: Tensor, other: Tensor) -> bool:
    bound = 1e-4 if one.dtype == torch.float32 else 0.05
    return bool((one - other).abs().max() <= bound * one.abs().max())


AttentionInterface.register(ATTENTION, slot_attention)
