"""A served model is found, and refused when its scores are not what a reward model gives."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_server import RewardServer, serve
from transformers import PreTrainedTokenizerFast

from charm_rm.data.tables import DataError
from charm_rm.models import endpoints
from charm_rm.models.endpoint_model import EndpointModel
from charm_rm.models.endpoint_probe import PROBES, check_scores, find_model
from charm_rm.models.endpoints import Endpoint
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.text_rules import TextRules, load_text_rules, rules_of

MakeModel = Callable[..., Path]
SGLANG = ("/v1/models", "/classify")
OPENRLHF = ("/get_reward",)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE", 0.005)


@pytest.fixture
def rules(tmp_path: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]) -> TextRules:
    tokenizer_of("llama").save_pretrained(tmp_path / "tokenizer")
    return load_text_rules(str(tmp_path / "tokenizer"))


def find(server: RewardServer, **how: Any) -> EndpointModel:
    return find_model(Endpoint(server.url), **how)


# What is found


def test_vllm_is_told_by_its_own_word_and_its_only_model_is_taken(rules: TextRules) -> None:
    with serve(RewardServer()) as server:
        model = find(server, rules=rules)
    assert (model.name, model.kind, model.max_length) == ("rm", "vllm 0.32.0 /classify", 128)
    assert model.echoes
    assert model.checked.startswith("raw scores: their sigmoid is what the server gives")


def test_sglang_is_told_by_its_own_word_and_its_limit_is_kept_away_from(rules: TextRules) -> None:
    with serve(RewardServer("sglang", routes=SGLANG)) as server:
        model = find(server, rules=rules, model="rm")
    assert (model.kind, model.max_length, model.echoes) == ("sglang /classify", 120, True)


def test_openrlhf_is_told_by_its_route(rules: TextRules) -> None:
    to_ids = make_reader(rules)
    with serve(RewardServer("openrlhf", to_ids=to_ids, routes=OPENRLHF)) as server:
        model = find(server, rules=rules, model="my-rm", max_length=100)
    assert (model.name, model.kind, model.max_length) == ("my-rm", "openrlhf /get_reward", 100)


def make_reader(rules: TextRules) -> Callable[[Any], list[int]]:
    """How a server that is sent text reads it: with the tokenizer, adding nothing."""
    tokenizer = rules.encode.keywords["tokenizer"]  # type: ignore[attr-defined]
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_without_classify_the_pooling_route_serves(rules: TextRules) -> None:
    with serve(RewardServer(routes=("/v1/models", "/pooling"))) as server:
        assert find(server, rules=rules).kind == "vllm /pooling"


def test_an_api_that_is_named_needs_no_list_of_models(rules: TextRules) -> None:
    with serve(RewardServer(routes=["/classify"])) as server:
        model = find(server, rules=rules, api="vllm", model="rm", max_length=50)
    assert model.max_length == 50


def test_a_server_that_breaks_now_and_then_is_found_all_the_same(rules: TextRules) -> None:
    faults = ["busy", "error", "drop", "cut", "count", "nan", "order", "foreign"]
    for seed in range(8):
        with serve(RewardServer(faults=faults, share=0.2, seed=seed)) as server:
            assert find(server, rules=rules).echoes


# What is refused


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"model": "nope"}, "no model 'nope'; there are: rm"),
        ({"max_length": 129}, "max_length is 129; this model takes 1 to 128 tokens"),
    ],
)
def test_what_the_server_does_not_have_is_refused(
    rules: TextRules, how: dict[str, Any], complaint: str
) -> None:
    with serve(RewardServer()) as server, pytest.raises(ValueError, match=complaint):
        find(server, rules=rules, **how)


def test_an_unknown_kind_of_server_is_refused_with_its_name(rules: TextRules) -> None:
    with (
        serve(RewardServer(owner="llamacpp")) as server,
        pytest.raises(DataError, match=r"calls itself 'llamacpp'.*give --api"),
    ):
        find(server, rules=rules)


def test_a_server_of_something_else_is_refused(rules: TextRules) -> None:
    with (
        serve(RewardServer(routes=["/version"])) as server,
        pytest.raises(DataError, match="neither /v1/models nor /get_reward there"),
    ):
        find(server, rules=rules)


def test_a_causal_language_model_is_refused(rules: TextRules) -> None:
    with (
        serve(RewardServer(routes=("/v1/models", "/version"))) as server,
        pytest.raises(DataError, match=r"'rm' is served without a reward head.*--runner pooling"),
    ):
        find(server, rules=rules)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_an_embedding_is_refused(rules: TextRules, kind: str) -> None:
    with (
        serve(RewardServer(kind, width=576)) as server,
        pytest.raises(DataError, match="576 numbers for a conversation, where a reward model"),
    ):
        find(server, rules=rules)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_that_adds_a_token_is_refused(rules: TextRules, kind: str) -> None:
    with (
        serve(RewardServer(kind, extra_token=True)) as server,
        pytest.raises(DataError, match=r"the server read \d+ tokens where \d+ were sent"),
    ):
        find(server, rules=rules)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "openrlhf"])
def test_an_activation_that_can_not_be_turned_off_is_refused(rules: TextRules, kind: str) -> None:
    routes = {"vllm": RewardServer().routes, "sglang": SGLANG, "openrlhf": OPENRLHF}[kind]
    server = RewardServer(kind, activation="always", routes=routes, to_ids=make_reader(rules))
    with (
        serve(server),
        pytest.raises(DataError, match="all 8 probes a score between 0 and 1, as an activation"),
    ):
        find(server, rules=rules, model="rm", max_length=100)


def test_raw_scores_between_0_and_1_pass_where_the_server_shows_both(rules: TextRules) -> None:
    with serve(RewardServer(score=lambda ids: 0.01 * len(ids))) as server:
        assert find(server, rules=rules).checked.startswith("raw scores: their sigmoid")


def test_an_identity_for_an_activation_passes_outside_0_to_1(rules: TextRules) -> None:
    with serve(RewardServer(activation="never")) as server:
        assert find(server, rules=rules).checked == "raw scores: they do not lie between 0 and 1"


def test_one_score_for_everything_is_refused(rules: TextRules) -> None:
    with (
        serve(RewardServer("sglang", score=lambda _: 1.0)) as server,
        pytest.raises(DataError, match="8 different conversations the same score, 1"),
    ):
        find(server, rules=rules)


@pytest.mark.parametrize("kind", ["sglang", "openrlhf"])
def test_servers_without_a_template_need_a_tokenizer(kind: str) -> None:
    routes = {"sglang": SGLANG, "openrlhf": OPENRLHF}[kind]
    with (
        serve(RewardServer(kind, routes=routes)) as server,
        pytest.raises(ValueError, match=f"{kind} applies no chat template; give --tokenizer"),
    ):
        find(server, model="rm")


def test_a_length_can_not_be_set_where_the_server_makes_the_tokens() -> None:
    with serve(RewardServer()) as server, pytest.raises(ValueError, match="give --tokenizer"):
        find(server, max_length=50)


def test_a_limit_that_nobody_knows_must_be_given(rules: TextRules) -> None:
    with (
        serve(RewardServer(routes=["/classify"])) as server,
        pytest.raises(ValueError, match="give --max-length"),
    ):
        find(server, rules=rules, api="vllm", model="rm")


# Compared with the weights


def test_scores_of_the_same_weights_pass_and_others_do_not(make: MakeModel) -> None:
    local = load_reward_model(str(make()), dtype="float32", device="cpu")
    other = load_reward_model(str(make(name="other", seed=1)), dtype="float32", device="cpu")
    rules = rules_of(local)

    with serve(RewardServer(score=lambda ids: float(local.score_ids([ids])[0]))) as server:
        assert "of those of the weights" in find(server, rules=rules, local=local).checked
        server.activation = "always"
        with pytest.raises(DataError, match="those of the weights after a sigmoid; start vLLM"):
            find(server, rules=rules, local=local)
        server.activation = "asked"
        with pytest.raises(DataError, match="differ from those of the weights by up to"):
            find(server, rules=rules, local=other)


def test_bounded_scores_pass_where_the_weights_give_the_same() -> None:
    scores = np.array([0.1, 0.12, 0.19])
    with pytest.raises(DataError, match="give its weights with --reward-model"):
        check_scores(scores, where="http://a", kind="sglang")
    assert check_scores(scores, where="http://a", kind="sglang", local=scores + 1e-4)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_a_shift_by_the_server_is_found_with_the_weights(scale: float) -> None:
    local = np.array([-3.0, 0.0, 4.0])
    with pytest.raises(DataError, match="logit_mean"):
        check_scores(scale * local - 1.5, where="http://a", local=local)


# The rules of the text


def test_a_tokenizer_alone_encodes_as_the_loaded_model_does(make: MakeModel) -> None:
    for layout in ("llama", "mistral", "qwen", "pad_is_eos"):
        folder = make(layout, name=layout)
        model = load_reward_model(str(folder), dtype="float32", device="cpu")
        alone, loaded = load_text_rules(str(folder)), rules_of(model)
        assert alone.encode(PROBES) == loaded.encode(PROBES) == model.encode(PROBES)
        assert (alone.bos, alone.template) == (loaded.bos, loaded.template)


def test_the_row_of_a_known_model_counts_also_for_its_tokenizer_alone(
    rules: TextRules, tmp_path: Path
) -> None:
    assert rules.bos
    fsfairx = load_text_rules(str(tmp_path / "tokenizer"), model="sfairXC/FsfairX-LLaMA3-RM-v0.1")
    assert not fsfairx.bos


def test_the_text_of_ids_is_given_only_where_it_leads_back_to_them(rules: TextRules) -> None:
    ids = rules.encode(PROBES[:1])[0]
    text = rules.text_of(ids)
    assert text is not None
    assert make_reader(rules)(text) == ids
    assert replace(rules).text_of([10**6]) is None


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer there"):
        load_text_rules(str(tmp_path))


def test_a_tokenizer_without_a_template_is_refused(
    tmp_path: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    tokenizer = tokenizer_of("llama")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="no chat template"):
        load_text_rules(str(tmp_path))
