"""How fast a served policy answers, many requests at once beside one after the other.

SmolLM2-135M-Instruct answers real AlpacaEval instructions greedily, on a server of this machine:
`transformers serve --continuous-batching`, which the script starts, or any other with --endpoint.
Rates are tokens of responses per second as the server counts them. One after the other gets fewer
prompts, half of them before the others and half behind, so that a machine that changes its pace
shows as a difference between the halves.

    python benchmarks/generation_endpoint.py --base DIR --data alpaca_eval/outputs.parquet
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from charm_rm.models.endpoint_policy import find_policy
from charm_rm.models.endpoints import Endpoint
from charm_rm.models.policies import Completion, Request, Sampling, request_seed

SERVE = "from transformers.cli.transformers import main; main()"
PATIENCE = 300.0  # seconds for the server to come up


def main() -> None:
    """Measures the ways and prints them as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="AlpacaEval outputs, a table")
    parser.add_argument("--base", type=Path, required=True, help="from small_reward_model.py base")
    parser.add_argument("--endpoint", help="a server that runs already, of one model")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--prompts", type=int, default=64, help="instructions, many at once")
    parser.add_argument("--alone", type=int, default=8, help="instructions one after the other")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    sampling = Sampling(temperature=0.0, max_new_tokens=arguments.max_new_tokens)
    requests = real_requests(arguments.data, n=arguments.prompts)
    few = [requests[at] for at in np.linspace(0, len(requests) - 1, arguments.alone).astype(int)]
    half = len(few) // 2
    with server(arguments.base, arguments.dtype, given=arguments.endpoint) as url:
        name = None if arguments.endpoint else str(arguments.base)
        how: dict[str, Any] = {"url": url, "model": name, "sampling": sampling}
        answer(few[:1], concurrency=1, **how)  # whatever is set up on the first request
        rows = [
            answer(few[:half], concurrency=1, **how),
            answer(requests, concurrency=arguments.concurrency, **how),
            answer(few[half:], concurrency=1, **how),
        ]
    report(rows, as_json=arguments.json)


def real_requests(data: Path, *, n: int) -> list[Request]:
    """Instructions from all over the file, one turn each."""
    texts = pl.read_parquet(data)["instruction"].unique(maintain_order=True)
    some = texts.gather(np.linspace(0, len(texts) - 1, n).astype(int).tolist())
    return [
        Request(f"{at}", 0, ({"role": "user", "content": text},), request_seed(0, f"{at}", 0))
        for at, text in enumerate(some)
    ]


def answer(
    requests: list[Request], *, concurrency: int, url: str, model: str | None, sampling: Sampling
) -> dict[str, float]:
    """Requests asked at a concurrency: tokens written, and seconds."""
    policy = find_policy(Endpoint(url, concurrency=concurrency), model=model, sampling=sampling)
    started = time.perf_counter()
    answers = [one for one in policy(requests) if isinstance(one, Completion)]
    seconds = time.perf_counter() - started
    if len(answers) < len(requests):
        raise SystemExit(f"{len(requests) - len(answers)} of {len(requests)} requests failed")
    n_tokens = sum(one.n_tokens or 0 for one in answers)
    return {"concurrency": concurrency, "n_prompts": len(requests), "n_tokens": n_tokens} | {
        "seconds": round(seconds, 2),
        "tokens_per_second": round(n_tokens / seconds, 1),
    }


@contextmanager
def server(base: Path, dtype: str, *, given: str | None) -> Iterator[str]:
    """Address of a server that has loaded the model, for as long as the block lasts."""
    if given:
        yield given
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(base), "--continuous-batching"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", dtype]
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/health", running)
        yield url
    finally:
        running.terminate()
        running.wait()


def wait_for(url: str, running: "subprocess.Popen[bytes]") -> None:
    """Until the server answers."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and running.poll() is None:
        try:
            httpx2.get(url, timeout=5.0)
        except httpx2.RequestError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the server did not come up; run it by hand and give --endpoint")


def report(rows: list[dict[str, float]], *, as_json: bool) -> None:
    """Prints the rates, and their ratios to one after the other, both halves together."""
    alone = [row for row in rows if row["concurrency"] == 1]
    first = sum(row["n_tokens"] for row in alone) / sum(row["seconds"] for row in alone)
    ways = [row | {"ratio": round(row["tokens_per_second"] / first, 2)} for row in rows]
    if as_json:
        print(json.dumps({"ways": ways}, indent=2))
        return
    table = Table("at once", "prompts", "tokens", "seconds", "tokens/s", "ratio", box=None)
    for row in ways:
        table.add_row(*(f"{value:,}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
