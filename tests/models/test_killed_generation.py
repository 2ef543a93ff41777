"""A local run of ``charm generate`` that is killed again and again ends as if nothing had happened.

One process loads a tiny policy once and forks a fresh run for each kill. What was written is
counted where the run loop takes it over. Half of bfloat16's digits are gone, so an answer that
depended on what was written beside it would show.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl

from charm_rm.data.prompts import as_messages
from charm_rm.models.generating import generate_responses, make_requests
from charm_rm.models.local_policy import load_local_policy
from charm_rm.models.policies import Sampling

N_KILLS, N_PROMPTS, SAMPLES, N_SLOTS = 20, 90, 2, 4
RUNNER = """
import json, os, random, signal, sys, time
import polars as pl  # its threads do not survive a fork: nothing of it is called before
from charm_rm.models import generating
from charm_rm.models.local_policy import load_local_policy
from charm_rm.models.policies import Request, Sampling

n_kills, folder, model, prompts, samples, n_slots, log = json.loads(sys.argv[1])
sampling = Sampling(temperature=0.0, max_new_tokens=24)
policy = load_local_policy(model, sampling=sampling, dtype="bfloat16", n_slots=n_slots)
generating.SECONDS_PER_PART = 0.0
greeting = Request("", 0, ({"role": "user", "content": "hello"},), 0)
list(policy([greeting]))  # whatever this imports on its way is imported once

def counted(requests):
    for outcome in policy(requests):
        with open(log, "a") as file:
            file.write(json.dumps([outcome.request.prompt_id, outcome.request.sample]) + "\\n")
        os.write(told, b"!")
        yield outcome

def run():
    table = pl.read_parquet(prompts)
    requests = generating.make_requests(table, samples=samples)
    how = {"name": "tiny", "folder": folder, "settings": policy.fingerprint()}
    return generating.generate_responses(table, requests, counted, **how).table

chance = random.Random(0)
killed = []
for _ in range(n_kills):
    ended, told = os.pipe()
    child = os.fork()
    if not child:
        run()
        os._exit(0)
    os.close(told)
    for _ in range(chance.randrange(8)):  # a moment that does not depend on the machine
        os.read(ended, 1)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    killed.append(os.WIFSIGNALED(os.waitpid(child, 0)[1]))
    os.close(ended)
told = os.open(os.devnull, os.O_WRONLY)
n_parts = len(os.listdir(os.path.join(folder, "parts")))
run().write_parquet(os.path.join(folder, "table"))
print(json.dumps([sum(killed), n_parts]))
"""


def test_a_run_killed_twenty_times_ends_as_an_uninterrupted_one(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    model, log = make("qwen", causal=True), tmp_path / "log"
    texts = [f"hello w{at} " + "kind " * (at % 9) for at in range(N_PROMPTS)]
    prompts = pl.DataFrame(
        {"prompt_id": [f"p{at}" for at in range(N_PROMPTS)], "prompt": map(as_messages, texts)}
    )
    prompts.write_parquet(tmp_path / "prompts.parquet")
    folder, source = tmp_path / "killed", tmp_path / "prompts.parquet"
    orders = [N_KILLS, *map(str, (folder, model, source)), SAMPLES, N_SLOTS, str(log)]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(orders)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    n_killed, n_parts = json.loads(done.stdout)
    assert n_killed == N_KILLS
    assert n_parts > 2  # the kills fell into the writing

    sampling = Sampling(temperature=0.0, max_new_tokens=24)
    policy = load_local_policy(str(model), sampling=sampling, dtype="bfloat16", n_slots=N_SLOTS)
    requests = make_requests(prompts, samples=SAMPLES)
    whole = generate_responses(
        prompts,
        requests[::-1],
        policy,
        name="tiny",
        folder=tmp_path / "whole",
        settings=policy.fingerprint(),
    )
    assert len(whole.table) == N_PROMPTS * SAMPLES
    assert pl.read_parquet(folder / "table").equals(whole.table)

    written = Counter(map(tuple, map(json.loads, log.read_text().splitlines())))
    assert set(written) == {(one.prompt_id, one.sample) for one in requests}
    again = sum(written.values()) - len(requests)
    assert again <= N_KILLS * 2 * N_SLOTS  # those that ended together and were not yet in a part
