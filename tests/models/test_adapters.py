"""LoRA adapters as PEFT saves them: merged into their base, or refused in one line."""

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from charm_rm.data.tables import DataError
from charm_rm.models.doctor import examine, open_case
from charm_rm.models.doctor_input import INPUT_CHECKS
from charm_rm.models.doctor_runs import RUN_CHECKS
from charm_rm.models.doctor_weights import WEIGHT_CHECKS
from charm_rm.models.reward_models import load_reward_model

MakeModel = Callable[..., Path]
CONVERSATIONS = [
    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": answer}]
    for answer in ("world", "w1 w2 w3", "")
]


def make_adapter(base: Path, folder: Path, *, head: bool = True) -> list[float]:
    """Saves a random adapter of a base; returns its scores by PEFT itself."""
    torch.manual_seed(3)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32
    )
    config = LoraConfig(
        task_type="SEQ_CLS" if head else None,
        r=4,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=["score"] if head else None,
        init_lora_weights=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted: Any = get_peft_model(model, config)
    if head:
        adapted.base_model.model.score.modules_to_save["default"].weight.data.normal_()
    adapted.eval().save_pretrained(folder)
    ids = load_reward_model(str(base), device="cpu").encode(CONVERSATIONS) if head else []
    adapted.config.pad_token_id = None
    with torch.inference_mode():
        return [float(adapted(input_ids=torch.tensor([one])).logits) for one in ids]


@pytest.fixture
def base(make: MakeModel) -> Path:
    return make("sound", name="base")


def load(folder: Path, **options: str) -> list[float]:
    model = load_reward_model(str(folder), dtype="float32", device="cpu", **options)  # type: ignore[arg-type]
    return list(model(CONVERSATIONS))


def test_an_adapter_scores_as_peft_itself_does(base: Path, tmp_path: Path) -> None:
    expected = make_adapter(base, tmp_path / "adapter")
    assert load(tmp_path / "adapter") == pytest.approx(expected, abs=1e-4)
    assert load(base) != pytest.approx(expected, abs=1e-2)


def test_the_base_may_be_elsewhere(base: Path, tmp_path: Path) -> None:
    expected = make_adapter(base, tmp_path / "adapter")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="base: no such directory"):
        load(tmp_path / "adapter")
    assert load(tmp_path / "adapter", base_model=str(moved)) == pytest.approx(expected, abs=1e-4)


def test_a_causal_base_is_fine_where_the_adapter_brings_the_head(
    make: MakeModel, base: Path, tmp_path: Path
) -> None:
    make_adapter(base, tmp_path / "adapter")
    trained = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    key = next(name for name in trained if name.endswith("score.weight"))
    causal = make("sound", name="causal", causal=True)
    model = load_reward_model(
        str(tmp_path / "adapter"), base_model=str(causal), dtype="bfloat16", device="cpu"
    )
    assert torch.equal(model.head.tensors["score.weight"], trained[key])
    assert next(model.backbone.parameters()).dtype == torch.bfloat16


def test_an_adapter_without_a_head_takes_that_of_its_base_or_is_refused(
    make: MakeModel, base: Path, tmp_path: Path
) -> None:
    make_adapter(base, tmp_path / "adapter", head=False)
    stored = load_file(base / "model.safetensors")["score.weight"]
    model = load_reward_model(str(tmp_path / "adapter"), device="cpu")
    assert torch.equal(model.head.tensors["score.weight"], stored)
    causal = make("sound", name="causal", causal=True)
    with pytest.raises(DataError, match=r'modules_to_save=\["score"\]'):
        load(tmp_path / "adapter", base_model=str(causal))


def test_an_adapter_of_a_known_model_is_read_by_its_row(make: MakeModel, tmp_path: Path) -> None:
    known = make("mistral", name="FsfairX-LLaMA3-RM-v0.1")
    make_adapter(known, tmp_path / "adapter")
    assert not load_reward_model(str(tmp_path / "adapter"), device="cpu").bos


def test_the_fingerprint_changes_with_the_adapter(base: Path, tmp_path: Path) -> None:
    make_adapter(base, tmp_path / "adapter")
    model = load_reward_model(str(tmp_path / "adapter"), device="cpu")
    plain = load_reward_model(str(base), device="cpu")
    assert model.name == "adapter"
    assert model.fingerprint()["weights"] != plain.fingerprint()["weights"]


def test_without_peft_the_adapter_is_refused_with_the_cure(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(base, tmp_path / "adapter")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "peft" else find(name)
    )
    with pytest.raises(DataError, match=r"needs peft: pip install 'charm-rm\[train\]'"):
        load(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("adapter_config.json", "{}", "names no base; give --base-model"),
        ("adapter_config.json", "{", "not a readable configuration"),
        ("adapter_model.safetensors", "torn", "not a readable safetensors file"),
        ("adapter_model.safetensors", None, "pickled weights are not loaded"),
    ],
)
def test_a_broken_adapter_is_one_line(
    base: Path, tmp_path: Path, file: str, content: str | None, complaint: str
) -> None:
    make_adapter(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(DataError, match=complaint) as refused:
        load(tmp_path / "adapter")
    assert "\n" not in str(refused.value)


def test_an_adapter_of_another_size_is_refused(make: MakeModel, base: Path, tmp_path: Path) -> None:
    make_adapter(base, tmp_path / "adapter")
    config = json.loads((base / "config.json").read_text())
    other = make("sound", name="other")
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(DataError, match="does not fit its base"):
        load(tmp_path / "adapter", base_model=str(other))


def test_the_doctor_looks_at_the_merged_model(base: Path, tmp_path: Path) -> None:
    make_adapter(base, tmp_path / "adapter")
    case = open_case(str(tmp_path / "adapter"), device="cpu", dtype="float32")
    findings = examine(case, {**INPUT_CHECKS, **WEIGHT_CHECKS, **RUN_CHECKS})
    found = {finding.name: finding for finding in findings}
    assert {finding.status for finding in findings} == {"pass"}
    assert "score.weight 1 x 32 merged" in found["head"].figure


def test_the_doctor_of_an_adapter_without_its_base_stops_at_nothing(
    base: Path, tmp_path: Path
) -> None:
    make_adapter(base, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    case = open_case(str(tmp_path / "adapter"), device="cpu")
    found = {
        finding.name: finding.status
        for finding in examine(case, {**INPUT_CHECKS, **WEIGHT_CHECKS, **RUN_CHECKS})
    }
    assert found["loading"] == found["weights"] == found["architecture"] == "fail"
