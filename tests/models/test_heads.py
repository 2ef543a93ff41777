"""Heads of other shapes, against the forward pass that their authors describe, written out anew.

Each model is tiny and random, in the state dict layout of the real one; the twin in the test is a
plain module that reads the same tensors and pools by itself. No real weights were run.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import gemma_2, llama_3, save_model
from torch import Tensor, nn
from transformers import AutoModel

from charm_rm.data.tables import DataError
from charm_rm.models.heads import HEAD_KINDS, choose_head
from charm_rm.models.known_models import KNOWN_REWARD_MODELS, find_row
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import RewardModel

HIDDEN = 32
CLASS = "PreTrainedTokenizerFast"
CONVERSATIONS = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for question, answer in [("hi", "ok"), ("why is it so", ""), ("go on", "a word and another")]
]
# what Llama 3 writes between prompt and response, by the ids of layouts.py
LLAMA_GATE = [281, 279, 266, 280, 276]
GEMMA_GATE = [312, 15, 311, 310, 15]


def random_tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        name.replace("__", "."): torch.randn(*shape, generator=generator) * 0.3
        for name, shape in shapes.items()
    }


def inf_orm() -> dict[str, Tensor]:
    return random_tensors(
        score__0__weight=(HIDDEN, HIDDEN),
        score__0__bias=(HIDDEN,),
        score__2__weight=(1, HIDDEN),
        score__2__bias=(1,),
    )


def grm() -> dict[str, Tensor]:
    return random_tensors(
        v_head__summary__0__weight=(16, HIDDEN),
        v_head__summary__0__bias=(16,),
        v_head__summary__2__weight=(1, 16),
        v_head__summary__2__bias=(1,),
    )


def urm() -> dict[str, Tensor]:
    return random_tensors(
        score__weight=(10, HIDDEN),
        weights__fc__0__weight=(HIDDEN, HIDDEN),
        weights__fc__0__bias=(HIDDEN,),
        weights__fc__2__weight=(HIDDEN, HIDDEN),
        weights__fc__2__bias=(HIDDEN,),
        weights__fc__4__weight=(5, HIDDEN),
        weights__fc__4__bias=(5,),
    )


def armo() -> dict[str, Tensor]:
    layers: dict[str, tuple[int, ...]] = {}
    for layer, (rows, columns) in enumerate([(16, HIDDEN), (16, 16), (16, 16), (19, 16)]):
        layers[f"gating__layers__{layer}__weight"] = (rows, columns)
        layers[f"gating__layers__{layer}__bias"] = (rows,)
    tensors = random_tensors(
        regression_layer__weight=(19, HIDDEN), reward_transform_matrix=(19, 19), **layers
    )
    return tensors | {"gating.logit_scale": torch.tensor([1.7])}


def qrm(n_objectives: int, places: tuple[int, ...], *, mixed: bool) -> dict[str, Tensor]:
    """Linear, ReLU, batch norm (and dropout) three times, then linear: numbered by place."""
    shapes: dict[str, tuple[int, ...]] = {"regression_layer__weight": (n_objectives * 3, HIDDEN)}
    size = HIDDEN
    for place in places[:-1]:
        shapes[f"gating__layers__{place}__weight"] = (16, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"gating__layers__{place + 2}__{part}"] = (16,)
        size = 16
    shapes[f"gating__layers__{places[-1]}__weight"] = (n_objectives, size)
    shapes[f"gating__layers__{places[-1]}__bias"] = (n_objectives,)
    if mixed:
        shapes["reward_transform_matrix"] = (n_objectives, n_objectives)
    tensors = random_tensors(**shapes)
    for name in [name for name in tensors if name.endswith("running_var")]:
        tensors[name] = tensors[name].abs() + 0.5
        tensors[name.replace("running_var", "num_batches_tracked")] = torch.tensor(3)
    return tensors | {"gating.logit_scale": torch.tensor([1.3])}


# The twins: (tensors, hidden states of one conversation, its ids) -> score


def last_mlp(prefix: str) -> Callable[[dict[str, Tensor], Tensor, list[int]], Tensor]:
    def twin(tensors: dict[str, Tensor], hidden: Tensor, ids: list[int]) -> Tensor:  # noqa: ARG001
        first = nn.Linear(HIDDEN, len(tensors[f"{prefix}0.bias"]))
        first.load_state_dict({k: tensors[f"{prefix}0.{k}"] for k in ("weight", "bias")})
        second = nn.Linear(first.out_features, 1)
        second.load_state_dict({k: tensors[f"{prefix}2.{k}"] for k in ("weight", "bias")})
        score: Tensor = nn.Sequential(first, nn.ReLU(), second)(hidden)[-1]
        return score

    return twin


def urm_twin(tensors: dict[str, Tensor], hidden: Tensor, ids: list[int]) -> Tensor:  # noqa: ARG001
    outputs = hidden @ tensors["score.weight"].T
    x = hidden
    for layer in (0, 2, 4):
        x = x @ tensors[f"weights.fc.{layer}.weight"].T + tensors[f"weights.fc.{layer}.bias"]
        x = nn.SELU()(x) if layer < 4 else x
    means = outputs.view(-1, 5, 2)[:, :, 0]
    return (means * x).sum(-1)[-1]


def gated_twin(
    mark: list[int], temperature: float
) -> Callable[[dict[str, Tensor], Tensor, list[int]], Tensor]:
    def twin(tensors: dict[str, Tensor], hidden: Tensor, ids: list[int]) -> Tensor:
        starts = [at for at in range(len(ids)) if ids[at : at + len(mark)] == mark]
        x = hidden[starts[-1]][None]
        layers: dict[int, nn.Module] = {}
        for number in sorted({int(n.split(".")[2]) for n in tensors if "gating.layers" in n}):
            name = f"gating.layers.{number}."
            own = {n.removeprefix(name): t for n, t in tensors.items() if n.startswith(name)}
            rows = len(own["weight"])
            norm = "running_mean" in own
            module: nn.Module = (
                nn.BatchNorm1d(rows)
                if norm
                else nn.Linear(own["weight"].shape[1], rows, bias="bias" in own)
            )
            module.load_state_dict(own)
            layers[number] = module.eval()
        for number, layer in layers.items():
            x = layer(x)
            if isinstance(layer, nn.Linear) and number != max(layers):
                x = torch.relu(x)
        gate = torch.softmax(x / temperature, dim=1) * tensors["gating.logit_scale"][0]
        objectives = hidden[-1] @ tensors["regression_layer.weight"].T
        objectives = objectives.reshape(gate.shape[1], -1).mean(1)
        if "reward_transform_matrix" in tensors:
            objectives = objectives @ tensors["reward_transform_matrix"]
        return (gate[0] * objectives).sum()

    return twin


def value_twin(tensors: dict[str, Tensor], hidden: Tensor, ids: list[int]) -> Tensor:
    at = max(place for place, token in enumerate(ids) if token == 282)
    return (hidden @ tensors["v_head.weight"].T)[at]


def logit_twin(tensors: dict[str, Tensor], hidden: Tensor, ids: list[int]) -> Tensor:  # noqa: ARG001
    return (hidden[-1] @ tensors["lm_head.weight"].T)[0]


LLAMA = lambda: llama_3(bos_in_template=True)  # noqa: E731
CASES: dict[str, tuple[Any, dict[str, Tensor], Any, dict[str, Any]]] = {
    "INF-ORM-Llama3.1-70B": (
        LLAMA,
        inf_orm(),
        last_mlp("score."),
        {"architecture": "INFORMForSequenceClassification"},
    ),
    "GRM-llama3-8B-sftreg": (LLAMA, grm(), last_mlp("v_head.summary."), {}),
    "URM-LLaMa-3.1-8B": (
        LLAMA,
        urm(),
        urm_twin,
        {"architecture": "LlamaForSequenceClassificationWithNormal_Weights"},
    ),
    "ArmoRM-Llama3-8B-v0.1": (
        LLAMA,
        armo(),
        gated_twin(LLAMA_GATE, 10.0),
        {"architecture": "LlamaForRewardModelWithGating"},
    ),
    "QRM-Llama3.1-8B": (
        LLAMA,
        qrm(19, (0, 3, 6, 9), mixed=True),
        gated_twin(LLAMA_GATE, 10.0),
        {"architecture": "LlamaForRewardModelWithGating31"},
    ),
    "QRM-Llama3.1-8B-v2": (
        LLAMA,
        qrm(5, (0, 4, 8, 11), mixed=False),
        gated_twin(LLAMA_GATE, 3.0),
        {"gating_temperature": 3.0},
    ),
    "QRM-Gemma-2-27B": (
        gemma_2,
        qrm(5, (0, 4, 8, 11), mixed=False),
        gated_twin(GEMMA_GATE, 1.0),
        {"architecture": "Gemma2ForQuantileSequenceClassification", "family": "gemma2"},
    ),
    "Athene-RM-8B": (
        LLAMA,
        random_tensors(v_head__weight=(1, HIDDEN)),
        value_twin,
        {"architecture": "CustomAutoModelForSequenceClassification"},
    ),
    "Llama-3.3-Nemotron-70B-Reward": (
        lambda: llama_3(bos_in_template=False),
        random_tensors(lm_head__weight=(284, HIDDEN)),
        logit_twin,
        {"architecture": "LlamaForCausalLM", "num_labels": 2},
    ),
}


def build(folder: Path, name: str, **changes: Any) -> Path:
    tokenizer, tensors, _, config = CASES[name]
    options = {"tokenizer_class": CLASS} | config | changes
    if options.get("family") == "gemma2":
        options["tokenizer_class"] = "GemmaTokenizer"
    head = options.pop("head", tensors)
    n_labels = options.pop("num_labels", 1)
    made = save_model(folder / name, tokenizer(), head=head, **options)
    if n_labels != 1:
        path = made / "config.json"
        path.write_text(path.read_text().replace('"id2label"', '"unused"'))
    return made


def load(folder: Path, **options: Any) -> RewardModel:
    return load_reward_model(str(folder), **{"dtype": "float32", "device": "cpu", **options})


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_score_is_what_the_described_forward_pass_gives(
    tmp_path: Path, name: str, padded: bool
) -> None:
    folder = build(tmp_path, name)
    model = replace(load(folder), padded=padded)
    _, tensors, twin, _ = CASES[name]
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    expected = []
    with torch.inference_mode():
        for ids in model.encode(CONVERSATIONS):
            whole = [*ids, *model.suffix]
            hidden = backbone(input_ids=torch.tensor([whole])).last_hidden_state[0]
            expected.append(float(twin(tensors, hidden, whole)))
    assert model(CONVERSATIONS) == pytest.approx(expected, abs=2e-5)
    assert np.std(expected) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_a_head_is_float32_and_named_by_its_row(tmp_path: Path, name: str) -> None:
    model = load(build(tmp_path, name), dtype="bfloat16")
    assert {tensor.dtype for tensor in model.head.tensors.values()} == {torch.float32}
    assert model.head.kind == find_row(name_of(name))[1].head
    assert model.fingerprint()["head"] == model.head.kind


def name_of(copied: str) -> str:
    return next(key for key in KNOWN_REWARD_MODELS if key.endswith(f"/{copied}"))


def test_athenes_token_stands_at_the_end_even_of_a_truncated_response(tmp_path: Path) -> None:
    model = load(build(tmp_path, "Athene-RM-8B"), max_length=20)
    assert model.suffix == (282,)
    ids = model.encode([[CONVERSATIONS[0][0], {"role": "assistant", "content": "a " * 40}]])[0]
    assert 282 not in ids
    backbone = AutoModel.from_pretrained(tmp_path / "Athene-RM-8B", dtype=torch.float32).eval()
    whole = [*ids[:20], 282]
    with torch.inference_mode():
        hidden = backbone(input_ids=torch.tensor([whole])).last_hidden_state[0]
    tensors = CASES["Athene-RM-8B"][1]
    expected = float(value_twin(tensors, hidden, whole))
    assert model.score_ids([ids[:20]])[0] == pytest.approx(expected, abs=2e-5)


def test_athenes_own_length_leaves_room_for_its_token(tmp_path: Path) -> None:
    assert load(build(tmp_path, "Athene-RM-8B")).max_length == 511


def test_the_gate_reads_the_last_end_of_a_prompt(tmp_path: Path) -> None:
    model = load(build(tmp_path, "ArmoRM-Llama3-8B-v0.1"))
    assert list(model.end_of_prompt) == LLAMA_GATE
    ids = model.encode([[*CONVERSATIONS[0], *CONVERSATIONS[2]]])[0]
    starts = [at for at in range(len(ids)) if ids[at : at + 5] == LLAMA_GATE]
    assert len(starts) == 2
    assert model._places(ids) == [len(ids) - 1, starts[1]]


def test_a_prompt_that_fills_the_length_leaves_the_gate_nothing_to_read(tmp_path: Path) -> None:
    model = load(build(tmp_path, "ArmoRM-Llama3-8B-v0.1"), max_length=8)
    with (
        pytest.warns(UserWarning, match="longer than 8 tokens"),
        pytest.raises(DataError, match="no end of a prompt in it"),
    ):
        model(CONVERSATIONS)


def test_a_gate_without_a_temperature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives no gating_temperature"):
        load(build(tmp_path, "QRM-Llama3.1-8B-v2", gating_temperature=None))


def test_a_row_whose_head_is_not_in_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no trained reward head: .*no v_head\.weight"):
        load(build(tmp_path, "Athene-RM-8B", head=inf_orm()))


def test_a_tokenizer_without_the_token_of_the_row_is_refused(tmp_path: Path) -> None:
    folder = save_model(
        tmp_path / "Athene-RM-8B",
        gemma_2(),
        tokenizer_class="GemmaTokenizer",
        family="gemma2",
        head=random_tensors(v_head__weight=(1, HIDDEN)),
    )
    with pytest.raises(DataError, match=r"reserved_special_token_1.*does not have"):
        load(folder)


def test_another_models_row_can_be_borrowed(tmp_path: Path) -> None:
    folder = build(tmp_path, "GRM-llama3-8B-sftreg").rename(tmp_path / "mine")
    with pytest.raises(DataError, match=r"v_head\.summary\.0\.bias.*give --like NAME"):
        load(folder)
    model = load(folder, like="Ray2333/GRM-llama3-8B-sftreg")
    assert model.head.kind == "value mlp"


def test_a_plain_value_head_is_read_without_a_row(tmp_path: Path) -> None:
    for name, key in [("a", "v_head.weight"), ("b", "v_head.summary.weight")]:
        head = {key: torch.ones(1, HIDDEN)}
        folder = save_model(
            tmp_path / name,
            llama_3(bos_in_template=True),
            tokenizer_class=CLASS,
            architecture="LlamaForCausalLM",
            head=head,
        )
        model = load(folder)
        assert model.head.kind in ("value", "value summary")
        assert np.isfinite(model(CONVERSATIONS)).all()


@pytest.mark.parametrize("copied", ["internlm2-7b-reward", "URM-LLaMa-3-8B"])
def test_a_model_that_is_not_read_says_why_and_what_to_do(tmp_path: Path, copied: str) -> None:
    folder = build(tmp_path, "GRM-llama3-8B-sftreg").rename(tmp_path / copied)
    with pytest.raises(DataError, match=r"is not read here: .*give --endpoint") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_every_kind_of_head_is_used_by_a_row_or_derived() -> None:
    used = {spec.head for spec in KNOWN_REWARD_MODELS.values()}
    assert set(HEAD_KINDS) - used == {"value summary"}


def test_a_head_that_no_row_explains_is_refused_with_the_ways_out() -> None:
    with pytest.raises(DataError, match=r"score\.0\.weight.*give --like NAME.*--endpoint"):
        choose_head(["score.0.weight", "score.2.weight"], row=None, where="rm")


def test_the_page_lists_every_row_with_its_rules() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reward-models.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
        for line in page.splitlines()
        if line.startswith("| `") and len(cells := line.split("|")) == 7
    }
    assert set(rows) == set(KNOWN_REWARD_MODELS)
    for name, spec in KNOWN_REWARD_MODELS.items():
        bos, head, length, source = rows[name]
        if spec.refusal:
            assert (bos, head, length) == ("-", "not read", "-")
        else:
            assert bos == ("1" if spec.bos else "0")
            assert head == spec.head
            assert length == ("positions" if spec.max_length is None else f"{spec.max_length:,}")
        assert source
