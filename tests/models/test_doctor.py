"""The check-up: models broken on purpose, each fault found, all of them in one run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from charm_rm.data.tables import DataError
from charm_rm.models.doctor import Case, Finding, examine, open_case
from charm_rm.models.doctor_input import INPUT_CHECKS
from charm_rm.models.doctor_runs import RUN_CHECKS
from charm_rm.models.doctor_weights import WEIGHT_CHECKS
from charm_rm.models.scoring import RewardModel

MakeModel = Callable[..., Path]
Charm = Callable[..., tuple[int, str, str]]
CHECKS = {**INPUT_CHECKS, **WEIGHT_CHECKS, **RUN_CHECKS}


def check_up(folder: Path, **options: Any) -> dict[str, Finding]:
    case = open_case(str(folder), **{"device": "cpu", "dtype": "float32", **options})
    return {finding.name: finding for finding in examine(case, CHECKS)}


def faults(found: dict[str, Finding], status: str = "fail") -> set[str]:
    return {name for name, finding in found.items() if finding.status == status}


def edit(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


NOT_RUN = {"scores", "determinism", "batches", "memory"}


def test_a_sound_model_passes_every_check(make: MakeModel) -> None:
    found = check_up(make("sound"))
    assert list(found) == list(CHECKS)
    assert {name: f for name, f in found.items() if f.status != "pass"} == {}
    assert all(not finding.cure for finding in found.values())
    assert "1 here; the template writes 0, tokenising its text gives 1" in found["BOS"].figure
    assert "score.weight 1 x 32 F32" in found["head"].figure
    assert "alone against together, packed: up to " in found["batches"].figure
    assert "128 tokens" in found["length"].figure


# One fault at a time


def test_a_conversation_that_ends_with_the_padding_is_read_one_token_early(
    make: MakeModel,
) -> None:
    finding = check_up(make("pad_is_eos"))["pooling"]
    assert finding.status == "fail"
    last = finding.figure.split()[6].rstrip(",")
    assert f"by transformers at {int(last) - 1}," in finding.figure
    assert "padding token of its own" in finding.cure


def test_padding_within_a_conversation_is_pointed_out_for_tools_that_look_for_the_first(
    make: MakeModel,
) -> None:
    finding = check_up(make("qwen"))["pooling"]
    assert finding.status == "warn"
    assert "first padding token" in finding.cure


def test_two_labels_are_found_without_and_with_a_head_of_two(make: MakeModel) -> None:
    found = check_up(make("sound", num_labels=2))
    assert faults(found) == {"labels", "head", "loading"}
    assert "num_labels is 2" in found["labels"].figure
    assert faults(found, "warn") == NOT_RUN


def test_a_template_that_doubles_the_bos_is_found(make: MakeModel) -> None:
    folder = make("sound")
    template = folder / "chat_template.jinja"
    template.write_text("<s><s>" + template.read_text())
    finding = check_up(folder)["BOS"]
    assert finding.status == "fail"
    assert "the template writes 2" in finding.figure


def test_a_bos_that_rendering_and_tokenising_would_double_is_pointed_out(make: MakeModel) -> None:
    finding = check_up(make("mistral"))["BOS"]
    assert finding.status == "warn"
    assert "1 here; the template writes 1, tokenising its text gives 2" in finding.figure
    assert "add_special_tokens=False" in finding.cure


def test_left_padding_is_pointed_out(make: MakeModel) -> None:
    folder = make("sound")
    edit(folder, "tokenizer_config.json", padding_side="left")
    found = check_up(folder)
    assert found["padding side"].status == "warn"
    assert "padding_side to right" in found["padding side"].cure
    assert found["batches"].status == "pass"


def test_a_causal_language_model_is_found(make: MakeModel) -> None:
    found = check_up(make("sound", causal=True))
    assert {"architecture", "head", "loading"} <= faults(found)
    assert "causal language model" in found["architecture"].cure


@pytest.mark.parametrize("vocabulary", [30, 50])
def test_a_tokenizer_larger_than_the_embedding_is_found(make: MakeModel, vocabulary: int) -> None:
    found = check_up(make("sound", vocabulary=vocabulary))
    assert faults(found) == {"vocabulary", "loading"}
    assert f"ids up to 55, embedding of {vocabulary} rows" in found["vocabulary"].figure


def test_a_padding_id_outside_the_embedding_is_found(make: MakeModel) -> None:
    folder = make("sound")
    edit(folder, "config.json", pad_token_id=4000)
    assert "pad_token_id is 4000" in check_up(folder)["vocabulary"].figure


def test_a_head_that_was_never_trained_is_found(make: MakeModel) -> None:
    folder = make("sound")
    edit_weights(folder, lambda tensors: tensors.pop("score.weight"))
    found = check_up(folder)
    assert faults(found) == {"head", "loading"}
    assert found["head"].cure == "a random head would be scored"


def test_nan_in_the_weights_is_found_in_them_and_in_the_scores(make: MakeModel) -> None:
    folder = make("sound")
    key = "model.layers.1.mlp.up_proj.weight"
    edit_weights(folder, lambda tensors: tensors[key].view(-1)[:1].fill_(torch.nan))
    found = check_up(folder)
    assert {"weights", "scores"} <= faults(found)
    assert key in found["weights"].figure


def test_a_head_of_zeros_is_found(make: MakeModel) -> None:
    folder = make("sound")
    edit_weights(folder, lambda tensors: tensors["score.weight"].zero_())
    assert "scores" in faults(check_up(folder))


def test_an_injected_system_prompt_is_shown_and_can_be_taken_off(make: MakeModel) -> None:
    finding = check_up(make("smol"))["template"]
    assert finding.status == "warn"
    assert "'system You are kind'" in finding.figure
    assert "--no-system-prompt" in finding.cure


def test_a_template_that_writes_the_date_is_pointed_out(make: MakeModel) -> None:
    folder = make("sound")
    (folder / "chat_template.jinja").write_text(
        "{{ strftime_now('%Y') }}{{ messages[-1].content }}"
    )
    assert "date" in check_up(folder)["template"].figure


def test_an_activation_in_the_configuration_is_pointed_out(make: MakeModel) -> None:
    folder = make("sound")
    activation = "torch.nn.modules.activation.Sigmoid"
    edit(folder, "config.json", sbert_ce_default_activation_function=activation)
    finding = check_up(folder)["activation"]
    assert finding.status == "warn"
    assert "sbert_ce_default_activation_function" in finding.figure


def test_a_padding_that_the_configuration_contradicts_is_pointed_out(make: MakeModel) -> None:
    folder = make("sound")
    edit(folder, "config.json", pad_token_id=2)
    assert check_up(folder)["padding"].status == "warn"


def test_a_model_without_padding_is_pointed_out(make: MakeModel) -> None:
    assert "set a pad token" in check_up(make("llama"))["padding"].cure


def test_a_shorter_limit_of_the_tokenizer_is_pointed_out(make: MakeModel) -> None:
    folder = make("sound")
    edit(folder, "tokenizer_config.json", model_max_length=100)
    assert "the tokenizer says 100" in check_up(folder)["length"].figure


@pytest.mark.parametrize(
    ("file", "content", "failed"),
    [
        ("config.json", "{", "architecture"),
        ("tokenizer.json", "{", "tokenizer"),
        ("model.safetensors", "torn", "weights"),
        ("chat_template.jinja", None, "template"),
        ("tokenizer.json", None, "tokenizer"),
        ("model.safetensors", None, "weights"),
    ],
)
def test_a_broken_or_missing_file_fails_its_check_and_no_run_is_stopped(
    make: MakeModel, file: str, content: str | None, failed: str
) -> None:
    folder = make("sound")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    found = check_up(folder)
    assert {failed, "loading"} <= faults(found)
    assert found[failed].cure
    assert set(found) >= NOT_RUN


def test_a_model_that_the_table_refuses_says_why(make: MakeModel) -> None:
    found = check_up(make("sound", name="internlm2-7b-reward"))
    assert found["table"].status == "fail"
    assert "--endpoint" in found["table"].cure


def test_the_row_of_a_known_model_is_named(make: MakeModel) -> None:
    found = check_up(make("qwen", name="Skywork-Reward-V2-Qwen3-0.6B"))
    assert "row of Skywork/Skywork-Reward-V2-Qwen3-0.6B; derived: template" in found["table"].figure


# What is measured


def test_scores_that_depend_on_the_company_are_measured(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_ids = RewardModel.score_ids
    monkeypatch.setattr(
        RewardModel,
        "score_ids",
        lambda self, sequences: score_ids(self, sequences) + 0.01 * len(sequences),
    )
    finding = check_up(make("sound"))["batches"]
    assert finding.status in ("warn", "fail")
    assert finding.cure == "give --exact, or --dtype float32"


def test_scores_that_change_from_run_to_run_are_measured(
    make: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_ids, rng = RewardModel.score_ids, np.random.default_rng(0)

    def noisy(self: RewardModel, sequences: list[list[int]]) -> NDArray[np.float64]:
        return score_ids(self, sequences) + rng.normal(0, 0.001, len(sequences))

    monkeypatch.setattr(RewardModel, "score_ids", noisy)
    assert check_up(make("sound"))["determinism"].status == "warn"


def test_memory_grows_with_the_model(make: MakeModel) -> None:
    figure = check_up(make("sound", positions=1024))["memory"].figure
    assert float(figure.partition(" and ")[2].split()[0]) > 0


def test_a_check_that_breaks_is_a_finding_and_stops_nothing(make: MakeModel) -> None:
    def broken(case: Case) -> Finding:
        raise KeyError(case.name)

    case = open_case(str(make("sound")), device="cpu")
    findings = examine(case, {"broken": broken, "BOS": INPUT_CHECKS["BOS"]})
    assert [(finding.name, finding.status) for finding in findings] == [
        ("broken", "fail"),
        ("BOS", "pass"),
    ]
    assert "KeyError" in findings[0].figure


# The command


def test_the_command_shows_all_faults_of_a_thoroughly_broken_model_in_one_run(
    charm: Charm, make: MakeModel
) -> None:
    folder = make("pad_is_eos", num_labels=2, vocabulary=50)
    template = folder / "chat_template.jinja"
    template.write_text("<s>" + template.read_text())
    edit(folder, "tokenizer_config.json", padding_side="left")
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(torch.inf))
    status, printed, words = charm("doctor", folder, "--json", "--device", "cpu")
    assert status == 1
    document = json.loads(printed)
    found = {entry["name"]: entry["status"] for entry in document["findings"]}
    failed = {name for name, status in found.items() if status == "fail"}
    assert failed == {"vocabulary", "BOS", "pooling", "labels", "head", "weights", "loading"}
    assert found["padding side"] == "warn"
    assert document["n_fail"] == len(failed)
    assert all(entry["cure"] for entry in document["findings"] if entry["status"] != "pass")
    assert words.splitlines()[-1].endswith("7 fail")


def test_the_command_prints_a_line_a_check_and_ends_well_on_a_sound_model(
    charm: Charm, make: MakeModel
) -> None:
    status, printed, words = charm("doctor", make("sound"), "--device", "cpu")
    assert status == 0
    lines = [line.split()[:2] for line in printed.splitlines()]
    assert ["pass", "BOS"] in lines
    assert len(lines) >= len(CHECKS)
    assert words.splitlines()[-1].endswith("19 pass, 0 warn, 0 fail")


def test_a_model_that_is_not_there_is_one_line(charm: Charm) -> None:
    status, printed, words = charm("doctor", "./no-such-model")
    assert (status, printed) == (1, "")
    assert words == "error: ./no-such-model: no such directory, nor a hub id; check it\n"


def test_a_row_that_is_not_there_lists_the_nearest(make: MakeModel) -> None:
    with pytest.raises(DataError, match=r"nearest: .*Skywork-Reward-V2-Qwen3"):
        open_case(str(make("sound")), like="Skywork-Reward-V2-Qwen3")
