"""A score is the response's own: the same alone, in any batch, in any order."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from charm_rm.data.responses import conversation, read_responses
from charm_rm.models.batches import padded_length
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import RewardModel

MakeModel = Callable[..., Path]

HEAD = Path(__file__).parents[2] / "reward_models" / "smollm2-135m-judge"
LENGTHS = [5, 4000, 31, 32, 33, 64, 250, 1023, 5, 700, 2500]
# of the standard deviation of the scores: what the precision may cost in any company
BOUNDS = {"float32": 1e-5, "bfloat16": 0.01}
SPREAD = 1.71  # score points: standard deviation of the bundled model's scores, from its card


def mixed_conversations() -> list[list[dict[str, str]]]:
    """Conversations of exactly these numbers of tokens in the layout "llama"."""
    rng = np.random.default_rng(0)
    return [
        [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": " ".join(f"w{n}" for n in rng.integers(0, 40, n - 8))}
            if n > 8
            else {"role": "assistant", "content": ""},
        ]
        for n in (max(length, 8) for length in LENGTHS)
    ]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_lengths_from_5_to_4000_score_alike_in_any_batch_and_order(
    make: MakeModel, dtype: str, side: str
) -> None:
    folder = make(positions=4096)
    model = load_reward_model(str(folder), dtype=dtype, device="cpu")
    model.tokenizer.padding_side = side
    model = replace(model, padded=True)
    ids = model.encode(mixed_conversations())
    sequences = [one[-length:] for one, length in zip(ids, LENGTHS, strict=True)]
    assert [len(one) for one in sequences] == LENGTHS
    alone = np.array([model.score_ids([one])[0] for one in sequences])
    bound = BOUNDS[dtype] * alone.std()
    for batch_tokens in (1, 5000, 100_000):
        together = model.score_ids(sequences, batch_tokens=batch_tokens)
        assert np.abs(together - alone).max() <= bound
    order = np.random.default_rng(1).permutation(len(sequences))
    shuffled = model.score_ids([sequences[row] for row in order])
    assert np.abs(shuffled - alone[order]).max() <= bound


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_bundled_model_scores_real_texts_alike_in_any_batch(
    base: Path, shared: Path, dtype: str
) -> None:
    model = load_reward_model(str(HEAD), base_model=str(base), dtype=dtype, device="cpu")
    model = replace(model, padded=True)
    ids = model.encode(real_conversations(shared))
    sequences = [one[: model.max_length] for one in ids]
    assert min(map(len, sequences)) < 100
    assert max(map(len, sequences)) == model.max_length
    alone = np.array([model.score_ids([one])[0] for one in sequences])
    together = model.score_ids(sequences[::-1])[::-1]
    assert np.abs(together - alone).max() <= BOUNDS[dtype] * SPREAD


def real_conversations(shared: Path) -> list[list[dict[str, str]]]:
    """Nine AlpacaEval outputs, some near in length so that they share a batch, one too long."""
    responses = read_responses([shared / "data/alpaca_eval/outputs.parquet"])
    bundled = pl.read_parquet(str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet"))
    lengths = bundled.select("prompt_id", "policy", "n_tokens").sort("n_tokens", "prompt_id")
    some = pl.concat(
        [
            lengths.filter(pl.col("n_tokens") >= least).head(n)
            for least, n in [(40, 2), (150, 4), (400, 2), (2049, 1)]
        ]
    )
    both = responses.join(some, on=["prompt_id", "policy"], maintain_order="right")
    return [conversation(row) for row in both.iter_rows(named=True)]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("padded", [False, True])
def test_exact_gives_the_same_bits_in_any_company(
    make: MakeModel, dtype: str, padded: bool
) -> None:
    folder = make(positions=4096)
    model = load_reward_model(str(folder), dtype=dtype, device="cpu", exact=True)
    model = replace(model, padded=padded)
    sequences = model.encode(mixed_conversations())
    together = model.score_ids(sequences)
    assert together.tolist() == [model.score_ids([one])[0] for one in sequences]
    assert together[::-1].tolist() == model.score_ids(sequences[::-1]).tolist()


def test_exact_pads_nothing_and_computes_one_at_a_time(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(load_reward_model(str(make()), device="cpu", exact=True), padded=True)
    shapes: list[tuple[int, ...]] = []
    score_batch = RewardModel._score_batch

    def watched(self: RewardModel, sequences: list[list[int]], width: int) -> object:
        shapes.append((len(sequences), *map(len, sequences), width))
        return score_batch(self, sequences, width)

    monkeypatch.setattr(RewardModel, "_score_batch", watched)
    model.score_ids([[9, 9], [9, 9], [9, 9, 9]])
    assert shapes == [(1, 2, 2), (1, 2, 2), (1, 3, 3)]


def test_an_exact_model_says_so_and_is_another_setting(make: MakeModel) -> None:
    folder = str(make())
    usual, exact = (load_reward_model(folder, device="cpu", exact=way) for way in (False, True))
    assert usual.fingerprint() | {"exact": True} == exact.fingerprint()
    assert usual.fingerprint() != exact.fingerprint()


def test_padding_is_decided_by_the_response_alone() -> None:
    for length in range(1, 300):
        padded = padded_length(length, most=256)
        assert padded == 256 if length > 224 else length <= padded < length + 32


def test_a_model_whose_tokens_see_those_behind_them_gets_a_mask(make: MakeModel) -> None:
    model = replace(load_reward_model(str(make()), dtype="float32", device="cpu"), padded=True)
    assert model._causal
    attention = model.backbone.get_submodule("layers.0.self_attn")
    attention.is_causal = False  # type: ignore[assignment]
    seen: list[bool] = []
    model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"] is not None),  # noqa: ARG005
        with_kwargs=True,
    )
    other = replace(model)
    assert not other._causal
    other.score_ids([[9, 9]])
    model.score_ids([[9, 9]])
    assert seen == [True, False]


def test_padding_can_not_be_seen_without_a_mask(make: MakeModel) -> None:
    model = replace(load_reward_model(str(make()), dtype="float32", device="cpu"), padded=True)
    ids = torch.randint(8, 50, (1, 20))
    padded = torch.cat([ids, torch.full((1, 12), 7)], dim=1)
    with torch.inference_mode():
        short, long = (model.backbone(input_ids=one).last_hidden_state for one in (ids, padded))
    assert torch.allclose(long[:, :20], short, atol=1e-6)
