"""Loading: what is scored is a trained head on the right input, or nothing is scored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from charm_rm.data.tables import DataError
from charm_rm.models.heads import HEAD_KINDS
from charm_rm.models.known_models import KNOWN_REWARD_MODELS, RewardModelSpec
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import RewardModel

MakeModel = Callable[..., Path]

CONVERSATIONS = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for question, answer in [
        ("hello", "world"),
        ("hello w1 w2 w3", "w4"),
        ("w9", " ".join(f"w{n}" for n in range(20))),
        ("w9 w8", ""),
    ]
]
LAYOUTS = ("llama", "mistral", "pad_is_eos", "qwen", "smol")


def load(folder: Path, **options: object) -> RewardModel:
    return load_reward_model(str(folder), **{"dtype": "float32", "device": "cpu", **options})  # type: ignore[arg-type]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# What a score is


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_are_the_logits_of_transformers_on_the_unpadded_ids(
    make: MakeModel, layout: str
) -> None:
    folder = make(layout)
    model = load(folder)
    twin = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    twin.config.pad_token_id = None  # so that it pools the last token, whatever its id
    with torch.inference_mode():
        expected = [twin(torch.tensor([ids])).logits.item() for ids in model.encode(CONVERSATIONS)]
    assert model(CONVERSATIONS) == pytest.approx(expected, abs=1e-5)


def test_the_last_token_is_pooled_even_when_it_is_the_padding(make: MakeModel) -> None:
    model = load(make("pad_is_eos"))
    ids = model.encode(CONVERSATIONS[:1])[0]
    assert ids[-1] == model.tokenizer.pad_token_id
    one_early, whole = model.score_ids([ids[:-1], ids])
    assert one_early != pytest.approx(whole, abs=1e-3)
    assert model(CONVERSATIONS[:1])[0] == whole


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_head_is_float32_to_the_last_digit(make: MakeModel, dtype: str) -> None:
    folder = make()
    stored = load_file(folder / "model.safetensors")["score.weight"]
    assert not torch.equal(stored, stored.bfloat16().float())
    model = load(folder, dtype=dtype)
    assert next(model.backbone.parameters()).dtype == getattr(torch, dtype)
    assert torch.equal(model.head.tensors["score.weight"], stored)


def test_bfloat16_scores_lie_near_float32_scores_but_on_no_bfloat16_grid(make: MakeModel) -> None:
    folder = make()
    exact, rounded = load(folder)(CONVERSATIONS), load(folder, dtype="bfloat16")(CONVERSATIONS)
    assert rounded == pytest.approx(exact, abs=0.1 * exact.std())
    on_grid = torch.tensor(rounded, dtype=torch.bfloat16).double().numpy() == rounded
    assert not on_grid.all()


def test_a_model_is_loaded_for_inference_with_what_was_asked(make: MakeModel) -> None:
    model = load(make(name="my-rm"), max_length=64)
    assert (model.name, model.dtype, model.max_length) == ("my-rm", "float32", 64)
    assert not model.backbone.training
    assert not model.padded
    assert model.warnings == ()


@pytest.mark.parametrize(("capable", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_is_the_default_only_where_the_processor_computes_in_it(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch, capable: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    assert load(make(), dtype=None).dtype == expected


# What a model expects


def test_the_length_is_the_models_positions_unless_it_was_trained_on_fewer(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(name="known")
    assert load(folder).max_length == 128
    row = {"owner/known": RewardModelSpec(max_length=100)}
    monkeypatch.setattr("charm_rm.models.known_models.KNOWN_REWARD_MODELS", row)
    assert load(folder).max_length == 100
    assert load(folder, max_length=120).max_length == 120


def test_a_row_overrules_what_tokenizer_and_template_suggest(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("mistral", name="FsfairX-LLaMA3-RM-v0.1")
    assert load(folder).encode(CONVERSATIONS[:1]) == [[3, 11, 4, 12, 2]]
    row = {
        "owner/FsfairX-LLaMA3-RM-v0.1": RewardModelSpec(
            template="hello {{ bos_token }} {{ messages[-1].content }}"
        )
    }
    monkeypatch.setattr("charm_rm.models.known_models.KNOWN_REWARD_MODELS", row)
    assert load(folder).encode(CONVERSATIONS[:1]) == [[1, 11, 1, 12]]


def test_every_row_is_a_hub_id_with_sane_values() -> None:
    for name, spec in KNOWN_REWARD_MODELS.items():
        assert name.count("/") == 1
        assert spec.refusal or (spec.bos is not None and spec.head in HEAD_KINDS)
        assert spec.max_length is None or spec.max_length >= 4096


def test_a_template_beside_the_weights_overrules_the_tokenizers(make: MakeModel) -> None:
    folder = make("smol")
    assert "system You are kind" in load(folder).warnings[0]
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    model = load(folder)
    assert model.warnings == ()
    assert model.encode(CONVERSATIONS[:1]) == [[11, 12]]


def test_a_template_that_writes_the_date_is_pointed_out(make: MakeModel) -> None:
    folder = make()
    template = "{{ strftime_now('%Y') }} {{ messages[-1].content }}"
    (folder / "chat_template.jinja").write_text(template)
    assert any("today's date" in warning for warning in load(folder).warnings)


def test_a_tokenizer_that_transformers_reads_otherwise_is_pointed_out(make: MakeModel) -> None:
    folder = make("llama")
    edit_config(folder, model_type="qwen2", architectures=["Qwen2ForSequenceClassification"])
    edit_weights(folder, _add_qwen_biases)
    assert any("splits text otherwise" in warning for warning in load(folder).warnings)


def _add_qwen_biases(tensors: dict[str, torch.Tensor]) -> None:
    for key in [
        key for key in tensors if key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    ]:
        tensors[key.replace("weight", "bias")] = torch.zeros(tensors[key].shape[0])


def test_a_truncated_conversation_warns_and_scores_its_beginning(make: MakeModel) -> None:
    model = load(make(), max_length=12)
    with pytest.warns(UserWarning, match="1 of 4 conversations are longer than 12 tokens"):
        scores = model(CONVERSATIONS)
    assert scores[2] == model.score_ids([model.encode(CONVERSATIONS)[2][:12]])[0]


# What is refused


@pytest.mark.parametrize("name", ["no-such-directory", "./no/such", "/no/such", "a/b/c", ""])
def test_a_missing_directory_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"no such directory, nor a hub id; check it"):
        load_reward_model(name)


def test_a_hub_id_that_the_hub_does_not_give_is_one_line() -> None:
    with pytest.raises(DataError, match="nobody/nothing: no such directory, and the hub") as error:
        load_reward_model("nobody/nothing")
    assert "\n" not in str(error.value)


def test_a_directory_has_no_revisions(make: MakeModel) -> None:
    with pytest.raises(DataError, match="is a directory, which has no revisions; leave --revision"):
        load_reward_model(str(make()), revision="v2")


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no config\.json"):
        load(tmp_path)


def test_a_broken_configuration_is_refused(make: MakeModel) -> None:
    folder = make()
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json is not usable"):
        load(folder)


def test_a_model_that_needs_its_own_code_is_refused_unless_trusted(make: MakeModel) -> None:
    folder = make()
    auto_map = {"AutoConfig": "configuration_mine.MineConfig"}
    edit_config(folder, model_type="mine", auto_map=auto_map)
    (folder / "configuration_mine.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(DataError, match="give --trust-remote-code"):
        load(folder)


def test_a_causal_language_model_is_refused(make: MakeModel) -> None:
    with pytest.raises(
        DataError, match=r"this is a causal language model .*no trained reward head"
    ):
        load(make(causal=True))


def test_a_causal_model_relabelled_as_a_classifier_is_refused(make: MakeModel) -> None:
    folder = make(causal=True)
    edit_config(folder, architectures=["LlamaForSequenceClassification"], num_labels=1)
    with pytest.raises(DataError, match=r"no trained reward head: .*no score\.weight"):
        load(folder)


def test_a_head_that_is_not_in_the_weights_is_refused(make: MakeModel) -> None:
    folder = make()
    edit_weights(folder, lambda tensors: tensors.pop("score.weight"))
    with pytest.raises(DataError, match="a random head would be scored"):
        load(folder)


def test_a_layer_that_is_not_in_the_weights_is_refused(make: MakeModel) -> None:
    folder = make()
    edit_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(DataError, match=r"1 tensors .* such as model\.layers\.1\.mlp\.up_proj"):
        load(folder)


@pytest.mark.parametrize("num_labels", [2, 5])
def test_a_head_with_several_outputs_is_refused(make: MakeModel, num_labels: int) -> None:
    with pytest.raises(DataError, match=f"head has {num_labels} outputs"):
        load(make(num_labels=num_labels))


def test_an_unknown_kind_of_model_is_refused(make: MakeModel) -> None:
    folder = make()
    edit_config(folder, architectures=["LlamaForTokenClassification"])
    with pytest.raises(DataError, match="names LlamaForTokenClassification"):
        load(folder)


def test_a_model_without_a_tokenizer_is_refused(make: MakeModel) -> None:
    with pytest.raises(DataError, match="no tokenizer there"):
        load(make(tokenizer=False))


def test_a_model_without_a_chat_template_is_refused(make: MakeModel) -> None:
    folder = make()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match=r"no chat template.*chat_template\.jinja"):
        load(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(make: MakeModel) -> None:
    with pytest.raises(DataError, match="tokenizer has 56 tokens, the embedding only 30"):
        load(make(vocabulary=30))


def test_pickled_weights_are_refused(make: MakeModel) -> None:
    folder = make()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="pickled weights are not loaded"):
        load(folder)


def test_torn_weights_are_refused(make: MakeModel) -> None:
    path = make() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load(path.parent)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'; give one of bfloat16, float16, float32"),
        ({"device": "abacus"}, "device is 'abacus', which is not to be had"),
        ({"max_length": 0}, "max_length is 0; this model takes 1 to 128"),
        ({"max_length": 129}, "max_length is 129; this model takes 1 to 128"),
    ],
)
def test_options_out_of_range_are_refused(
    make: MakeModel, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        load(make(), **options)


# A directory that holds the trained part alone


@pytest.fixture
def trained_part(make: MakeModel, tmp_path: Path) -> Path:
    """The head of a model without anything else, and its base beside it in ``base``."""
    whole = make("smol", name="whole")
    make("smol", name="base", causal=True)
    tensors = load_file(whole / "model.safetensors")
    backbone = {key: value for key, value in tensors.items() if key != "score.weight"}
    save_file(backbone, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(whole / "config.json", part)
    save_file({"score.weight": tensors["score.weight"]}, part / "model.safetensors")
    return part


def test_a_head_alone_takes_everything_else_from_its_base(
    trained_part: Path, tmp_path: Path
) -> None:
    expected = load(tmp_path / "whole")(CONVERSATIONS)
    assert load(trained_part, base_model=str(tmp_path / "base"))(CONVERSATIONS) == pytest.approx(
        expected, abs=1e-6
    )
    edit_config(trained_part, base_model_name_or_path=str(tmp_path / "base"))
    assert load(trained_part)(CONVERSATIONS) == pytest.approx(expected, abs=1e-6)


def test_trained_layers_of_the_part_replace_those_of_the_base(
    trained_part: Path, tmp_path: Path
) -> None:
    key = "model.layers.1.mlp.up_proj.weight"
    retrained = load_file(tmp_path / "whole" / "model.safetensors")[key] * 2
    edit_weights(trained_part, lambda tensors: tensors.update({key: retrained}))
    edit_weights(tmp_path / "whole", lambda tensors: tensors.update({key: retrained}))
    part = load(trained_part, base_model=str(tmp_path / "base"))
    assert part(CONVERSATIONS) == pytest.approx(load(tmp_path / "whole")(CONVERSATIONS), abs=1e-6)


def test_a_part_may_use_fewer_layers_than_its_base(trained_part: Path, tmp_path: Path) -> None:
    edit_config(trained_part, num_hidden_layers=1)
    model = load(trained_part, base_model=str(tmp_path / "base"))
    assert len(model.backbone.get_submodule("layers")) == 1  # type: ignore[arg-type]


def test_a_part_with_a_template_of_its_own_uses_it(trained_part: Path, tmp_path: Path) -> None:
    (trained_part / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    model = load(trained_part, base_model=str(tmp_path / "base"))
    assert model.encode(CONVERSATIONS[:1]) == [[12]]


def test_a_part_without_its_base_is_refused(trained_part: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer there"):
        load(trained_part)
    edit_config(trained_part, base_model_name_or_path="/no/such/base")
    with pytest.raises(DataError, match="/no/such/base: no such directory"):
        load(trained_part)


def test_a_part_with_a_tensor_that_has_no_place_is_refused(
    trained_part: Path, tmp_path: Path
) -> None:
    edit_weights(trained_part, lambda tensors: tensors.update({"model.norm.bias": torch.ones(2)}))
    with pytest.raises(DataError, match=r"tensor 'model\.norm\.bias' has no place"):
        load(trained_part, base_model=str(tmp_path / "base"))


def test_a_part_of_another_size_is_refused(trained_part: Path, tmp_path: Path) -> None:
    edit_config(trained_part, intermediate_size=64)
    with pytest.raises(DataError, match=r"has shape .* the files do not belong together"):
        load(trained_part, base_model=str(tmp_path / "base"))


def test_the_fingerprint_changes_with_any_weight_of_part_or_base(
    trained_part: Path, tmp_path: Path
) -> None:
    base = str(tmp_path / "base")
    seen = {str(load(trained_part, base_model=base).fingerprint())}
    edit_weights(trained_part, lambda tensors: tensors["score.weight"].add_(1e-3))
    seen.add(str(load(trained_part, base_model=base).fingerprint()))
    edit_weights(tmp_path / "base", lambda tensors: tensors["model.norm.weight"].add_(1e-3))
    seen.add(str(load(trained_part, base_model=base).fingerprint()))
    assert len(seen) == 3
