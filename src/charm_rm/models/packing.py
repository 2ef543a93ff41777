"""Several sequences in one forward pass without padding: the fast and exact way on a CPU.

The tokens of a pack stand behind each other in one row. Linear layers see the row; attention sees
every sequence by itself, block by block. Ids with which several sequences begin, a long prompt
with its responses, are computed once. The last layer computes keys and
values for all tokens, and everything else only where the head reads.

A sequence's states do not depend on its pack: rows of a matrix product are computed alike whatever
stands beside them, and attention never crosses sequences. Models whose attention does more than
that (soft capping, sliding windows, positions that stretch with the input) are not packed.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from charm_rm.models.packs import Pack, Span, lay_out

ATTENTION = "charm_rm_packed"  # the name under which transformers finds `packed_attention`
STRETCHING_ROPE = ("dynamic", "longrope")  # positions that depend on the longest input
BLOCK = 64  # queries that meet their keys at once: products that a core's cache holds
_PROBE = ((5, 9, 2, 7, 3, 8, 4), (5, 9, 2, 7, 6, 1, 8, 3, 2, 9), (1, 7, 4))


@dataclass
class Pass:
    """What attention must know of the pack that runs; the last layer leaves its keys here."""

    spans: tuple[Span, ...]
    places: Sequence[Sequence[int]]  # in the sequence, as `packed_states` takes them
    last_layer: int
    captured: tuple[Tensor, Tensor] | None = None  # keys and values
    current: int | None = None  # sequence that the last layer is at; None while it captures


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Pass | None = None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each sequence of a pack to itself, as transformers calls it.

    Without a pack it is transformers' own attention by PyTorch's kernel.

    Args:
        module: The attention layer, which knows its ``layer_idx``.
        query: Shape (1, n_heads, n_tokens, width).
        key: Shape (1, n_key_heads, n_tokens, width); ``value`` alike.
        value: See ``key``.
        attention_mask: None in a pack, where the spans say what sees what.
        packed: The spans of the pack.
        scaling: Factor of the products of queries and keys.
        more: What transformers' own attention takes.

    Returns:
        Shape (1, n_tokens, n_heads, width), and None for the weights.

    Raises:
        ValueError: If there is a mask beside a pack.

    Example:
        >>> tokens = torch.eye(3).view(1, 1, 3, 3)
        >>> alone = Pass(spans=(Span(0, 1, 0, 0), Span(1, 3, 1, 1)), places=(), last_layer=9)
        >>> layer = nn.Module()
        >>> layer.layer_idx = 0
        >>> out, _ = packed_attention(layer, tokens, tokens, tokens, None, packed=alone)
        >>> out[0, :, 0].argmax(dim=-1).tolist()
        [0, 1, 2]
    """
    if packed is None:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return out
    if attention_mask is not None:
        raise ValueError("packed attention takes no mask; this model gives one")
    if module.layer_idx == packed.last_layer:
        if packed.current is None:
            packed.captured = key, value
            return query.transpose(1, 2), None
        return _attend_at_places(query, packed, scaling), None
    parts: list[Tensor] = []
    done = 0
    for span in packed.spans:
        if span.shared_end > done:  # the shared tokens, ahead of the first that shares them
            shared = slice(span.shared_start, span.shared_end)
            parts.append(_attend(query, key, value, shared, None, scaling))
        own, before = slice(span.start, span.end), slice(span.shared_start, span.shared_end)
        parts.append(_attend(query, key, value, own, before, scaling))
        done = span.end
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: slice,
    before: slice | None,
    scaling: float | None,
) -> Tensor:
    """Tokens ``own`` to themselves, causally, and to all tokens ``before``; (1, heads, n, width).

    Blocks of queries meet the keys up to their end, by plain matrix products: on a CPU PyTorch's
    fused kernel reaches a fifth of their rate at the lengths of responses. Products are rounded as
    transformers' eager attention rounds them. The blocks begin at multiples of ``BLOCK`` of the
    sequence, so that a token meets the same keys in the same order whether its sequence's
    beginning is shared or not.
    """
    seen = [own] if before is None else [before, own]
    keys = torch.cat([key[0, :, part] for part in seen], dim=1)
    values = torch.cat([value[0, :, part] for part in seen], dim=1)
    n_heads, n_own, width = query[0, :, own].shape
    n_key_heads, n_keys, _ = keys.shape
    scaled = query[0, :, own] * (width**-0.5 if scaling is None else scaling)
    hidden = torch.full((BLOCK, BLOCK), -torch.inf, dtype=query.dtype).triu_(1)
    parts: list[Tensor] = []
    first = n_keys - n_own  # where the own tokens begin in the sequence
    for begin in range(first - first % BLOCK, n_keys, BLOCK):
        start, end = max(begin, first), min(begin + BLOCK, n_keys)
        block = scaled[:, start - first : end - first].reshape(n_key_heads, -1, width)
        products = block @ keys[:, :end].mT
        ahead = products.view(n_heads, end - start, end)[..., begin:]
        ahead += hidden[start - begin : end - begin, : end - begin]
        mixed = products.softmax(dim=-1) @ values[:, :end]
        parts.append(mixed.view(n_heads, end - start, width))
    return torch.cat(parts, dim=1)[None]


def _attend_at_places(query: Tensor, packed: Pass, scaling: float | None) -> Tensor:
    """The last layer at one sequence: a query a place, to all up to there; (1, n, heads, width)."""
    if packed.captured is None or packed.current is None:
        raise ValueError("the last layer's keys were not computed before its queries")
    span = packed.spans[packed.current]
    n_shared = span.shared_end - span.shared_start
    parts: list[Tensor] = []
    for at, place in enumerate(packed.places[packed.current]):
        seen = (
            slice(span.shared_start, min(span.shared_end, span.shared_start + place + 1)),
            slice(span.start, span.start + max(0, place + 1 - n_shared)),
        )
        keys, values = (
            torch.cat([part[:, :, one] for one in seen], dim=2) for part in packed.captured
        )
        parts.append(
            scaled_dot_product_attention(
                query[:, :, at : at + 1], keys, values, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2)


class LastLayer(nn.Module):
    """The last layer of a backbone, in a pack computed only where a head reads.

    Keys and values of all tokens are computed first; output and feed-forward then see the read
    tokens alone, one sequence after the other: a product of one row and one of many rows are not
    rounded alike, and a score must not depend on its pack.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        packed: Pass | None = None,
        **more: Any,
    ) -> Any:
        """What the layer gives at the places of ``packed``, shape (1, n_places, width)."""
        if packed is None:
            return self.layer(hidden_states, position_embeddings=position_embeddings, **more)
        self.layer.self_attn(
            hidden_states=self.layer.input_layernorm(hidden_states),
            position_embeddings=position_embeddings,
            packed=packed,
            **more,
        )
        parts = []
        for row, (span, places) in enumerate(zip(packed.spans, packed.places, strict=True)):
            packed.current = row
            ends = [span.locate(place) for place in places]
            cosine, sine = (part[:, ends] for part in position_embeddings)
            parts.append(
                self.layer(
                    hidden_states[:, ends],
                    position_embeddings=(cosine, sine),
                    packed=packed,
                    **more,
                )
            )
        return torch.cat(parts, dim=1)


def enable_packing(backbone: Any, *, max_length: int, whole: bool = False) -> bool:
    """Makes a backbone ready for `packed_states`, if its attention allows it.

    The decision is by its configuration and then by trial: three short sequences, two of which
    share their beginning, must give the states that they give alone.

    Args:
        backbone: A transformers decoder without head.
        max_length: Longest sequence in tokens that will be given.
        whole: Whether it will be called with `whole_pass` instead, as in training; its layers then
            stay as they are, and only their attention is another.

    Returns:
        Whether it is ready. If not, it is as it was.

    Example:
        >>> from transformers import AutoModel, LlamaConfig
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
        >>> config = LlamaConfig(vocab_size=32, num_attention_heads=2, **sizes)
        >>> enable_packing(AutoModel.from_config(config).eval(), max_length=64)
        True
    """
    layers: Any = getattr(backbone, "layers", None)
    config = backbone.config
    known = isinstance(layers, nn.ModuleList) and hasattr(layers[-1], "input_layernorm")
    if not known or not _plain_attention(config, max_length):
        return False
    before, last = config._attn_implementation, layers[-1]
    n_words = backbone.get_input_embeddings().num_embeddings
    probe = [[token % n_words for token in sequence] for sequence in _PROBE]
    with torch.inference_mode():
        alone = [_states_alone(backbone, sequence) for sequence in probe]
        try:
            backbone.set_attn_implementation(ATTENTION)
            layers[-1] = last if whole else LastLayer(last)
            pack = lay_out([((0, 1), 4), ((2,), 0)], probe)
            states = (_whole_states if whole else packed_states)(
                backbone, pack, [[len(one) - 1] for one in probe]
            )
            if all(_alike(one[0], other) for one, other in zip(states, alone, strict=True)):
                return True
        except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
            pass  # a layer of another make; it runs one at a time, as it did
    layers[-1] = last
    backbone.set_attn_implementation(before)
    return False


def is_causal(backbone: torch.nn.Module) -> bool:
    """Whether no token sees those behind it, so that padding there needs no mask.

    Args:
        backbone: A transformers model.

    Returns:
        What all of its attention layers say; False if none says anything.

    Example:
        >>> is_causal(torch.nn.Linear(1, 1))
        False
    """
    flags = [getattr(module, "is_causal", None) for module in backbone.modules()]
    known = [flag for flag in flags if flag is not None]
    return bool(known) and all(known)


def whole_pass(pack: Pack) -> Pass:
    """What a packed forward pass takes as ``packed`` to compute the states of all its tokens.

    Args:
        pack: The pack.

    Returns:
        The argument.

    Example:
        >>> whole_pass(lay_out([((0,), 0)], [[1, 2]])).spans
        (Span(start=0, end=2, shared_start=0, shared_end=0),)
    """
    return Pass(pack.spans, places=(), last_layer=-1)


def _whole_states(backbone: Any, pack: Pack, places: Sequence[Sequence[int]]) -> list[Tensor]:
    states = backbone(
        input_ids=torch.tensor([pack.ids], device=backbone.device),
        position_ids=torch.tensor([pack.positions], device=backbone.device),
        use_cache=False,
        packed=whole_pass(pack),
    ).last_hidden_state[0]
    located = zip(pack.spans, places, strict=True)
    return [states[[span.locate(place) for place in wanted]] for span, wanted in located]


def _plain_attention(config: Any, max_length: int) -> bool:
    """Whether each token attends to all tokens before it, and to nothing else."""
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    slides = window is not None and window < max_length and kinds != {"full_attention"}
    return not (
        slides
        or kinds - {"full_attention", "sliding_attention"}
        or getattr(config, "attn_logit_softcapping", None) is not None
        or rope.get("rope_type") in STRETCHING_ROPE
    )


def _states_alone(backbone: Any, sequence: Sequence[int]) -> Tensor:
    ids = torch.tensor([sequence], device=backbone.device)
    states: Tensor = backbone(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
    return states


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether states agree as two orders of rounding do: other attention differs by far more."""
    bound = 1e-4 if one.dtype == torch.float32 else 0.25
    return bool((one - other).norm() <= bound * other.norm())


@torch.inference_mode()
def packed_states(backbone: Any, pack: Pack, places: Sequence[Sequence[int]]) -> list[Tensor]:
    """Hidden states of a pack where a head reads.

    Args:
        backbone: One that `enable_packing` found ready.
        pack: The pack.
        places: Positions in each of its sequences, in the order of ``pack.rows``.

    Returns:
        One tensor a sequence, shape (n_places, width).

    Raises:
        ValueError: If a sequence has no place, or one outside of it.

    Example:
        >>> from transformers import AutoModel, LlamaConfig
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
        >>> config = LlamaConfig(vocab_size=32, num_attention_heads=2, **sizes)
        >>> backbone = AutoModel.from_config(config).eval()
        >>> enable_packing(backbone, max_length=64)
        True
        >>> pack = lay_out([((0,), 0), ((1,), 0)], [[1, 2, 3], [4, 5]])
        >>> [len(states) for states in packed_states(backbone, pack, [[2], [0, 1]])]
        [1, 2]
    """
    for span, wanted in zip(pack.spans, places, strict=True):
        length = span.shared_end - span.shared_start + span.end - span.start
        if not wanted or not 0 <= min(wanted) <= max(wanted) < length:
            raise ValueError(f"places {list(wanted)} are not in a sequence of {length} tokens")
    device = backbone.device
    states = backbone(
        input_ids=torch.tensor([pack.ids], device=device),
        position_ids=torch.tensor([pack.positions], device=device),
        use_cache=False,
        packed=Pass(pack.spans, places, last_layer=len(backbone.layers) - 1),
    ).last_hidden_state[0]
    return list(states.split([len(wanted) for wanted in places]))


@contextmanager
def core_each() -> Iterator[Any]:
    """A ``map`` that runs each job on one thread, as many side by side as there are cores.

    Two threads on one matrix product wait for each other; two products do not. And a product is
    not rounded alike on one thread and on two, so a job has one thread also where it is alone.

    Yields:
        A function like ``map``; results come in the order of the jobs.

    Example:
        >>> with core_each() as each:
        ...     list(each(abs, [-1, 2, -3]))
        [1, 2, 3]
    """
    n_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with pool:
            yield pool.map
    finally:
        torch.set_num_threads(n_threads)


AttentionInterface.register(ATTENTION, packed_attention)
