"""``charm score --endpoint`` as a user meets it: scores from a server, one line per mistake."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from reward_server import RewardServer, serve, true_score
from transformers import PreTrainedTokenizerFast

from charm_rm.data.responses import conversation, read_responses
from charm_rm.data.scores import read_scores
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.text_rules import load_text_rules

MakeModel = Callable[..., Path]
Charm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    rows = [
        {"instruction": f"hello w{n}", "output": f"kind {'world ' * n}", "generator": policy}
        for policy in ("a", "b")
        for n in range(6)
    ]
    path = tmp_path / "model_outputs.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def tokenizer(tmp_path: Path, tokenizer_of: Callable[[str], PreTrainedTokenizerFast]) -> Path:
    tokenizer_of("llama").save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def server(tokenizer: Path) -> Iterator[RewardServer]:
    rules = load_text_rules(str(tokenizer))
    with serve(RewardServer(to_ids=lambda messages: rules.encode([messages])[0])) as running:
        yield running


def test_responses_become_scores_of_the_served_model(
    charm: Charm, server: RewardServer, outputs: Path, tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    status, printed, words = charm(
        *("score", outputs, "--endpoint", f"{server.url}/v1", "--tokenizer", tokenizer),
        *("--out", out, "--json", "--api", "vllm", "--concurrency", 2, "--max-length", 10),
    )
    assert status == 0
    document = json.loads(printed)
    scores = read_scores([out])
    ids = load_text_rules(str(tokenizer)).encode(
        [conversation(row) for row in read_responses([outputs]).to_dicts()]
    )
    assert scores["score"].to_list() == [true_score(one[:10]) for one in ids]
    assert document["n_truncated"] == sum(len(one) > 10 for one in ids) > 0
    assert document["n_tokens_this_run"] == sum({tuple(o[:10]): len(o[:10]) for o in ids}.values())
    made_by = document["made_by"]
    assert made_by["model"]["endpoint"] == server.url
    assert made_by["model"]["api"] == "vllm /classify"
    assert made_by["model"]["max_length"] == 10
    assert made_by["server"] == "vllm 0.32.0 /classify"
    assert json.loads(pl.read_parquet_metadata(out)["charm_rm"]) == made_by
    assert f"rm on {server.url}, vllm 0.32.0 /classify; raw scores" in words
    assert not (tmp_path / "scores.parquet.parts").exists()


def test_without_a_tokenizer_conversations_are_counted_and_a_warning_says_what_is_unsure(
    charm: Charm, server: RewardServer, outputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.csv"
    status, printed, words = charm("score", outputs, "--endpoint", server.url, "--out", out)
    assert (status, printed) == (0, "")
    assert "warning: the server applies a chat template of its own" in words
    assert "0 of 6 conversations" in words  # what both policies wrote is sent once
    assert "conversations/s" in words.splitlines()[-1]
    assert read_scores([out])["n_tokens"].min() is not None


def test_a_server_is_asked_where_torch_is_not_installed(
    server: RewardServer, outputs: Path, tmp_path: Path
) -> None:
    heavy = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")
    out = tmp_path / "scores.parquet"
    blocked = "\n".join(
        [
            "import sys",
            f"sys.modules.update(dict.fromkeys({heavy!r}))  # importing one of them fails",
            "from charm_rm.cli.main import main",
            "main()",
        ]
    )
    arguments = ["score", str(outputs), "--endpoint", server.url, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(read_scores([out])) == 12
    refused = subprocess.run(
        [sys.executable, "-c", blocked, *arguments, "--tokenizer", "t", "--force"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.endswith("needs torch: pip install 'charm-rm[models]'\n")


def test_what_the_template_says_is_taken_off_by_the_rules_here(
    charm: Charm,
    outputs: Path,
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "smol", tmp_path / "scores.parquet"
    tokenizer_of("smol").save_pretrained(folder)
    conversations = [conversation(row) for row in read_responses([outputs]).to_dicts()]
    arguments = ("score", outputs, "--tokenizer", folder, "--out", out, "--json", "--force")
    whole, bare = load_text_rules(str(folder)), load_text_rules(str(folder), system_prompt=False)
    expected = {
        (): whole.encode(conversations),
        ("--no-system-prompt",): bare.encode(conversations),
        ("--like", "CIR-AMS/BTRM_Qwen2_7b_0613"): [ids[1:] for ids in whole.encode(conversations)],
    }
    with serve(RewardServer()) as server:
        for options, sequences in expected.items():
            status, printed, _ = charm(*arguments, "--endpoint", server.url, *options)
            assert status == 0
            assert read_scores([out])["score"].to_list() == [true_score(ids) for ids in sequences]
            made_by = json.loads(printed)["made_by"]["model"]
            assert made_by["bos"] is ("--like" not in options)
            assert made_by["system_prompt"] is ("--no-system-prompt" not in options)
        out.unlink()
        missing = ("--like", "CIR-AMS/BTRM")
        line = refused(
            charm, tmp_path, outputs, "--endpoint", server.url, "--tokenizer", folder, *missing
        )
    assert line.startswith("error: --like: no known reward model 'CIR-AMS/BTRM'; nearest: ")


def test_the_weights_at_hand_are_compared_with_the_server(
    charm: Charm, make: MakeModel, outputs: Path, tmp_path: Path
) -> None:
    local = load_reward_model(str(make()), dtype="float32", device="cpu")
    arguments = ("score", outputs, "--out", tmp_path / "s.parquet", "--endpoint")
    with serve(RewardServer(score=lambda ids: float(local.score_ids([ids])[0]))) as server:
        weights = ("--reward-model", tmp_path / "model")
        status, _, words = charm(*arguments, server.url, *weights)
        assert (status, "of those of the weights" in words) == (0, True)
        other = ("--reward-model", make(name="other", seed=1), "--force")
        status, _, words = charm(*arguments, server.url, *other)
    assert status == 1
    assert "error: " + server.url + ": its scores differ from those of the weights" in words


# Mistakes: one line, status 1, nothing written


def refused(charm: Charm, tmp_path: Path, *arguments: object) -> str:
    before = sorted(tmp_path.rglob("*"))
    status, printed, words = charm("score", *arguments, "--out", tmp_path / "scores.parquet")
    lines = [line for line in words.splitlines() if line.startswith("error: ")]
    assert (status, printed, len(lines)) == (1, "", 1)
    assert words.splitlines()[-1] == lines[0]
    assert sorted(tmp_path.rglob("*")) == before
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--endpoint", "127.0.0.1:1"], "error: '127.0.0.1:1': no http:// or https://"),
        (["--endpoint", "http://127.0.0.1:1"], "error: http://127.0.0.1:1: no connection"),
        (["--endpoint", "http://a", "--dtype", "float32"], "error: --dtype is the server's choice"),
        (["--endpoint", "http://a", "--device", "cpu"], "error: --device is the server's choice"),
        (
            ["--endpoint", "http://a", "--batch-tokens", "9"],
            "error: --batch-tokens is the server's",
        ),
        (
            ["--endpoint", "http://a", "--tokenizer", "t", "--reward-model", "m"],
            "error: --tokenizer and --reward-model both name a tokenizer; give one of them",
        ),
        (["--endpoint", "http://a", "--base-model", "b"], "error: --base-model is the base of"),
        (["--endpoint", "http://a", "--revision", "r"], "error: --revision needs the model's text"),
        (["--endpoint", "http://a", "--like", "l"], "error: --like needs the model's text rules"),
        (["--endpoint", "http://a", "--no-system-prompt"], "error: --no-system-prompt needs the"),
        (["--reward-model", "m", "--ray-workers", "2"], "error: --ray-workers is for a cluster"),
        (["--reward-model", "m", "--model", "rm"], "error: --model is for a server; give its"),
        (["--reward-model", "m", "--api", "vllm"], "error: --api is for a server; give its"),
        (["--reward-model", "m", "--concurrency", "3"], "error: --concurrency is for a server"),
        (["--reward-model", "m", "--tokenizer", "t"], "error: --tokenizer is for a server"),
    ],
)
def test_options_and_addresses_that_can_not_be_meant_are_refused(
    charm: Charm, outputs: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    assert refused(charm, tmp_path, outputs, *arguments).startswith(complaint)


def test_an_unknown_model_is_refused_with_those_there_are(
    charm: Charm, server: RewardServer, outputs: Path, tmp_path: Path
) -> None:
    line = refused(charm, tmp_path, outputs, "--endpoint", server.url, "--model", "nope")
    assert line == f"error: {server.url}: no model 'nope'; there are: rm"


def test_a_wrong_key_is_refused_and_not_shown(
    charm: Charm,
    server: RewardServer,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.key = "sesame"
    monkeypatch.setenv("CHARM_API_KEY", "hunter2")
    line = refused(charm, tmp_path, outputs, "--endpoint", server.url)
    assert "it does not take the key; set CHARM_API_KEY" in line
    assert "hunter2" not in line


def test_a_causal_language_model_is_refused(
    charm: Charm, server: RewardServer, outputs: Path, tmp_path: Path
) -> None:
    server.routes = ("/v1/models", "/version")
    line = refused(charm, tmp_path, outputs, "--endpoint", server.url)
    assert "'rm' is served without a reward head" in line


def test_the_missing_extra_is_named(
    charm: Charm, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "httpx2" else find(name)
    )
    line = refused(charm, tmp_path, outputs, "--endpoint", "http://127.0.0.1:1")
    assert line == ("error: charm score --endpoint needs httpx2: pip install 'charm-rm[endpoint]'")


def test_neither_a_model_nor_an_endpoint_is_a_usage_error(
    charm: Charm, outputs: Path, tmp_path: Path
) -> None:
    status, _, words = charm("score", outputs, "--out", tmp_path / "scores.parquet")
    assert status == 2
    assert "give a model, or --endpoint" in words
