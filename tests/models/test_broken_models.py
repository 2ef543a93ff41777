"""Models broken on purpose: each is one line that names the file and what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charm_rm.data.tables import DataError
from charm_rm.models.reward_models import load_reward_model

MakeModel = Callable[..., Path]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_attention_heads": 3}, "its config.json is not usable .*not a multiple"),
        ({"hidden_size": "x"}, "its config.json is not usable .*hidden_size"),
        ({"rope_parameters": {"rope_type": "zz"}}, r"its weights can't be loaded \('zz'\)"),
        ({"vocab_size": 60}, r"embed_tokens.weight has shape \(320, 32\) .* \(60, 32\) by config"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "its weights can't be loaded .*bitsandbytes",
        ),
    ],
)
def test_a_wrong_value_in_the_configuration_is_one_line(
    make: MakeModel, changes: dict[str, Any], complaint: str
) -> None:
    path = make() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=complaint):
        load_reward_model(str(path.parent))


def test_a_model_without_room_for_a_token_is_refused(make: MakeModel) -> None:
    with pytest.raises(ValueError, match="its input holds 0 tokens"):
        load_reward_model(str(make(positions=0)))


@pytest.mark.parametrize("shard", ["../other/model.safetensors", 7])
def test_an_index_of_shards_that_leads_elsewhere_is_refused(make: MakeModel, shard: object) -> None:
    folder = make()
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"score.weight": shard}}))
    with pytest.raises(DataError, match="not an index of shards"):
        load_reward_model(str(folder))
    index.write_text(json.dumps({"weight_map": {"score.weight": "model-2.safetensors"}}))
    with pytest.raises(DataError, match=r"model-2\.safetensors: not a readable safetensors file"):
        load_reward_model(str(folder))


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for m in messages %}{{ m.content ", "template is broken .*mend its chat_template"),
        ("{{ 1 / 0 }}", r"template refuses it \(division by zero\)"),
        ("{{ messages[0].content }}", "its chat template leaves out the response"),
        ("", "its chat template leaves out the response"),
    ],
)
def test_a_template_that_can_not_be_meant_is_refused(
    make: MakeModel, template: str, complaint: str
) -> None:
    folder = make()
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=complaint):
        load_reward_model(str(folder))
