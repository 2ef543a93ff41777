"""Draws from the nucleus: transformers' own nucleus, in proportion, by a number given."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from charm_rm.data.tables import DataError
from charm_rm.models import drawing
from charm_rm.models.drawing import draw_tokens


def shares(logits: Tensor, *, temperature: float, top_p: float, n: int = 4000) -> Tensor:
    """How often each token is drawn from one row by numbers that cover [0, 1) evenly."""
    uniforms = ((np.arange(n) + 0.5) / n).tolist()
    tokens = draw_tokens(
        logits.expand(n, -1), temperature=temperature, top_p=top_p, uniforms=uniforms
    )
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1]) / n


def expected(logits: Tensor, *, temperature: float, top_p: float) -> Tensor:
    none: Tensor = torch.empty(1, 0, dtype=torch.long)
    warped = TopPLogitsWarper(top_p)(none, logits[None] / temperature)
    return torch.softmax(warped[0], dim=-1)


@pytest.mark.parametrize("n_likely", [4, 256])  # fewer than the nucleus holds, and all
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999, 1.0])
def test_tokens_come_in_proportion_from_the_nucleus_of_transformers(
    top_p: float, n_likely: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "N_LIKELY", n_likely)
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        logits = 2.0 * torch.randn(60, generator=rng)
        wanted = expected(logits, temperature=0.7, top_p=top_p)
        found = shares(logits, temperature=0.7, top_p=top_p)
        assert not found[wanted == 0].any()
        assert (found - wanted).abs().max() <= 1.1 / 4000


def test_a_row_is_drawn_alike_beside_rows_that_need_all_tokens_sorted() -> None:
    rng = torch.Generator().manual_seed(0)
    narrow = 9.0 * torch.randn(1, 1000, generator=rng)
    flat = torch.zeros(1, 1000)
    for u in (0.0, 0.3, 0.99):
        alone = draw_tokens(narrow, temperature=0.7, top_p=0.9, uniforms=[u])
        beside = draw_tokens(torch.cat([flat, narrow]), temperature=0.7, top_p=0.9, uniforms=[u, u])
        assert beside[1:] == alone
        assert beside[0] == int(u * 900)  # ties stand in the order of their ids


def test_temperature_nought_takes_the_largest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 4.9]], dtype=torch.bfloat16)
    assert draw_tokens(logits, temperature=0.0, top_p=0.9, uniforms=()) == [1, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_no_numbers_are_refused(bad: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [bad, 0.0]])
    with pytest.raises(DataError, match="not numbers in this precision"):
        draw_tokens(logits, temperature=temperature, top_p=0.9, uniforms=[0.5, 0.5])


@pytest.mark.parametrize("temperature", [1e-30, 1e-46, 5e-324])
def test_a_temperature_near_nought_takes_the_largest(temperature: float) -> None:
    logits = torch.tensor([[30.0, 29.0, -40.0], [-1.0, -2.0, 5.0]])
    assert draw_tokens(logits, temperature=temperature, top_p=0.9, uniforms=[0.99, 0.99]) == [0, 2]
