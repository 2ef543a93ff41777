"""How fast a local policy writes, as ratios within one run: `make bench-generation`.

SmolLM2-135M-Instruct answers real AlpacaEval instructions. Beside the engine of `charm generate`:
one prompt at a time by transformers' ``generate``, as the released script of the paper does, in the
same precision and with the same settings; and ``generate`` on padded batches as large as a lane.
The limit is the matrix products of one step alone, every core on its own, with as many rows as a
lane has slots. Rates are tokens of responses per second; the prompts count as time, not as tokens.

One prompt at a time is so slow that it gets fewer prompts, half of them before the engine and half
behind it, so that a machine that changes its pace shows as a difference between the halves. The
ratio by CPU time is what is left of the ratio where other programs take the cores away.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, GenerationConfig

from charm_rm.models.local_policy import LocalPolicy, load_local_policy
from charm_rm.models.packing import core_each
from charm_rm.models.policies import Completion, Request, Sampling, request_seed
from charm_rm.models.policy_input import encode_prompt

Prompts = list[list[int]]


@dataclass(frozen=True)
class Timed:
    """What a way took."""

    way: str
    n_prompts: int
    n_tokens: int
    seconds: float
    cpu_seconds: float


def main() -> None:
    """Measures the ways and prints them as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="AlpacaEval instructions, a table")
    parser.add_argument("--base", type=Path, required=True, help="from small_reward_model.py base")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--prompts", type=int, default=128, help="instructions for the engine")
    parser.add_argument("--alone", type=int, default=8, help="instructions one at a time")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--slots", type=int, default=None, help="sequences at once on a core")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sampling = Sampling(arguments.temperature, 0.9, arguments.max_new_tokens)
    policy = load_local_policy(
        str(arguments.base), sampling=sampling, dtype=arguments.dtype, n_slots=arguments.slots
    )
    plain = AutoModelForCausalLM.from_pretrained(
        arguments.base, dtype=getattr(torch, arguments.dtype)
    ).eval()
    requests = real_requests(arguments.data, n_prompts=arguments.prompts)
    prompts = [
        encode_prompt(request.messages, policy.tokenizer, template=policy.template)[0]
        for request in requests
    ]
    few = [prompts[at] for at in np.linspace(0, len(prompts) - 1, arguments.alone).astype(int)]
    timed = measure(policy, plain, requests=requests, few=few)
    report(timed, limit=matrix_rate(policy), as_json=arguments.json)


def real_requests(data: Path, *, n_prompts: int) -> list[Request]:
    """Instructions from all over the file, one turn each."""
    texts = pl.read_parquet(data)["instruction"]
    some = texts.gather(np.linspace(0, len(texts) - 1, n_prompts).astype(int).tolist())
    return [
        Request(f"{at}", 0, ({"role": "user", "content": text},), request_seed(0, f"{at}", 0))
        for at, text in enumerate(some)
    ]


def measure(
    policy: LocalPolicy, plain: Any, *, requests: list[Request], few: Prompts
) -> list[Timed]:
    """The ways, one after the other; one prompt at a time before and behind the engine."""
    config = GenerationConfig(
        do_sample=policy.sampling.temperature > 0,
        temperature=policy.sampling.temperature or None,
        top_p=policy.sampling.top_p if policy.sampling.temperature else None,
        top_k=0 if policy.sampling.temperature else None,
        max_new_tokens=policy.sampling.max_new_tokens,
        eos_token_id=sorted(policy.stop_ids),
        pad_token_id=min(policy.stop_ids),
    )
    torch.manual_seed(0)
    half = len(few) // 2
    padded = [
        encode_prompt(request.messages, policy.tokenizer, template=policy.template)[0]
        for request in requests[: policy.n_slots]
    ]
    generate_batch(plain, few[:1], config)  # whatever is set up on the first call

    def one_by_one(prompts: Prompts) -> int:
        return sum(generate_batch(plain, [prompt], config) for prompt in prompts)

    def engine(_: Prompts) -> int:
        answers = [one for one in policy(requests) if isinstance(one, Completion)]
        return sum(one.n_tokens or 0 for one in answers)

    dtype, n = policy.dtype, len(requests)
    return [
        clock(f"one at a time, {dtype}", few[:half], one_by_one),
        clock(f"charm generate, {dtype}", few, engine, n_prompts=n),
        clock(f"one at a time, {dtype}, again", few[half:], one_by_one),
        clock(
            f"generate, padded batch, {dtype}",
            padded,
            lambda ids: generate_batch(plain, ids, config),
        ),
    ]


def clock(
    way: str, prompts: Prompts, run: Callable[[Prompts], int], *, n_prompts: int | None = None
) -> Timed:
    """What a way took on the clock and on all cores together, and the tokens that it wrote."""
    started, cpu = time.perf_counter(), time.process_time()
    n_tokens = run(prompts)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return Timed(way, n_prompts or len(prompts), n_tokens, seconds, cpu_seconds)


@torch.inference_mode()
def generate_batch(model: Any, prompts: Prompts, config: GenerationConfig) -> int:
    """Tokens that ``generate`` writes to some prompts at once, padded on the left."""
    longest = max(map(len, prompts))
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    new = model.generate(ids, attention_mask=mask, generation_config=config)[:, longest:]
    ended = (new == pad).long().cumsum(dim=1)
    return int((ended <= 1).sum())  # the token that ends a response counts, padding does not


def matrix_rate(policy: LocalPolicy, *, n_times: int = 10) -> float:
    """Rows per second of a step's linear layers alone, each core with the rows of a lane."""
    layers = [one.weight.detach() for one in policy.model.modules() if hasattr(one, "in_features")]
    rows = {weight.shape[1]: torch.randn(policy.n_slots, weight.shape[1]) for weight in layers}
    inputs = {width: one.to(layers[0].dtype) for width, one in rows.items()}
    n_jobs = 2 * torch.get_num_threads()

    @torch.inference_mode()
    def run(_: int) -> None:
        for weight in layers:
            linear(inputs[weight.shape[1]], weight)

    best = float("inf")
    for _ in range(n_times):
        started = time.perf_counter()
        with core_each() as each:
            list(each(run, range(n_jobs)))
        best = min(best, time.perf_counter() - started)
    return n_jobs * policy.n_slots / best


def report(timed: list[Timed], *, limit: float, as_json: bool) -> None:
    """Prints the rates, and their ratios to one prompt at a time, both halves together."""
    alone = [one for one in timed if one.way.startswith("one at a time")]
    n_alone = sum(one.n_tokens for one in alone)
    first = n_alone / sum(one.seconds for one in alone)
    first_cpu = n_alone / sum(one.cpu_seconds for one in alone)
    rows = [
        {
            "way": one.way,
            "n_prompts": one.n_prompts,
            "n_tokens": one.n_tokens,
            "tokens_per_second": round(one.n_tokens / one.seconds, 1),
            "ratio": round(one.n_tokens / one.seconds / first, 2),
            "ratio_by_cpu_time": round(one.n_tokens / one.cpu_seconds / first_cpu, 2),
            "share_of_limit": round(one.n_tokens / one.seconds / limit, 3),
        }
        for one in timed
    ]
    if as_json:
        print(json.dumps({"limit_tokens_per_second": round(limit), "ways": rows}, indent=2))
        return
    table = Table(
        "way", "prompts", "tokens", "tokens/s", "ratio", "by CPU time", "of limit", box=None
    )
    for row in rows:
        table.add_row(
            *(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values())
        )
    Console().print(table)
    Console().print(f"limit: {limit:,.0f} tokens/s, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
