"""The local engine beside a real server: `transformers serve`, with SmolLM2 on the loopback.

Both are asked through ``charm generate``. Two greedy answers may part where two tokens are as good
as equal, for the two compute in other shapes; where they part, the logits of the two tokens, as
transformers gives them behind what the answers share, lie closer than float32 is exact there.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from charm_rm.data.prompts import as_messages
from charm_rm.models.policy_input import encode_prompt

Charm = Callable[..., tuple[int, str, str]]

TIE = 1e-3  # in logits, which reach 30: what two orders of summing may leave in float32
N_NEW = 16
PATIENCE = 120.0  # seconds for the server to come up
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How do I boil an egg?",
    "Who wrote Hamlet?",
)
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that has loaded the model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", SERVE, "serve", str(base), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--device", "cpu"]
    path = tmp_path_factory.mktemp("server") / "log"
    with path.open("w") as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
    try:
        wait_until_ready(f"{url}/health", running, path)
        yield url
    finally:
        running.kill()
        running.wait()


def wait_until_ready(url: str, running: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert running.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_the_local_engine_answers_as_a_server_does_up_to_ties(
    charm: Charm, server: str, base: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in QUESTIONS))
    asked = ["generate", "--prompts", prompts, "--model", base, "--max-new-tokens", N_NEW]
    asked += ["--temperature", 0]
    engines: dict[str, list[object]] = {
        "served": ["--endpoint", server],
        "local": ["--dtype", "float32", "--concurrency", 3],
    }
    tables = {}
    for name, options in engines.items():
        status, _, said = charm(*asked, *options, "--out", tmp_path / name)
        assert status == 0, said
        tables[name] = pl.read_parquet(tmp_path / name / "responses.parquet")
    served, local = tables["served"], tables["local"]
    same = ["prompt_id", "sample", "n_prompt_tokens"]
    assert served.select(same).equals(local.select(same))
    assert all(local["response"].str.len_chars() > 3)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    answers = zip(local["prompt"], served["response"], local["response"], strict=True)
    parted = [
        gap_where_they_part(model, tokenizer, prompt, one, other)
        for prompt, one, other in answers
        if one != other
    ]
    assert all(gap <= TIE for gap in parted), parted
    assert len(parted) <= 1  # ties are rare


def gap_where_they_part(
    model: Any, tokenizer: Any, prompt: list[dict[str, str]], one: str, other: str
) -> float:
    """Difference of the logits of the first two tokens that differ."""
    template = tokenizer.get_chat_template()
    before, _ = encode_prompt(prompt, tokenizer, template=template)
    end = [tokenizer.eos_token_id]
    first, second = (
        tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in (one, other)
    )
    at = next(at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    with torch.inference_mode():
        logits = model(torch.tensor([before + first[:at]])).logits[0, -1]
    return float((logits[first[at]] - logits[second[at]]).abs())


def test_a_difference_that_is_no_tie_is_seen(base: Path) -> None:
    """The check above can fail: the best two tokens behind a plain prompt are no tie."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    prompt: Any = as_messages(QUESTIONS[0])
    gap = gap_where_they_part(
        model, tokenizer, prompt, "The capital of France", "The capitals of France"
    )
    assert gap > TIE
