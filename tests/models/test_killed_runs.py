"""Runs that are killed again and again end as if nothing had happened.

One process imports everything once and forks a fresh run for each kill, so that twenty of them
take seconds. What was scored or written is counted where it is: in the model's call, or on the
server.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from policy_server import PolicyServer, true_answer
from reward_server import RewardServer, serve
from transformers import PreTrainedTokenizerFast

from charm_rm.data.responses import conversation, read_responses
from charm_rm.data.tables import write_table
from charm_rm.models.response_folder import FAILURES, PARTS, TABLE
from charm_rm.models.text_rules import load_text_rules

MakeModel = Callable[..., Path]

N_KILLS = 20
RUNNER = """
import json, os, random, signal, sys, time
import charm_rm.models.endpoint_probe, charm_rm.models.endpoint_scoring
import charm_rm.models.endpoint_policy, charm_rm.models.generating, charm_rm.models.generation_costs
from charm_rm.cli.main import main
from charm_rm.data.parts import Parts
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import RewardModel
from charm_rm.models.text_rules import load_text_rules

n_kills, most_seconds, log, arguments = json.loads(sys.argv[1])
charm_rm.models.generating.SECONDS_PER_PART = 0.02  # a run lives a fraction of a second here
greeting = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]
if "--reward-model" in arguments:  # whatever this imports on its way is imported once
    load_reward_model(arguments[arguments.index("--reward-model") + 1])([greeting])
if "--tokenizer" in arguments:
    load_text_rules(arguments[arguments.index("--tokenizer") + 1]).encode([greeting])

def begin():
    ready, told = os.pipe()
    run = os.fork()
    if run:
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        return run
    os.close(ready)
    read, score_ids = Parts.read, RewardModel.score_ids

    def tell(self):
        stored = read(self)
        Parts.read = read
        os.write(told, b"!")
        return stored

    def count(self, sequences, **how):
        with open(log, "a") as file:
            file.write(json.dumps([list(ids) for ids in sequences]) + "\\n")
        time.sleep(0.005)
        return score_ids(self, sequences, **how)

    Parts.read, RewardModel.score_ids = tell, count
    sys.argv = ["charm", *arguments]
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    os._exit(status)

chance = random.Random(0)
killed = []
for _ in range(n_kills):
    run = begin()
    time.sleep(chance.uniform(0, most_seconds))
    os.kill(run, signal.SIGKILL)
    killed.append(os.WIFSIGNALED(os.waitpid(run, 0)[1]))
whole = os.waitstatus_to_exitcode(os.waitpid(begin(), 0)[1])
print(json.dumps({"n_killed": sum(killed), "status": whole}))
"""


def run_and_kill(arguments: list[str], *, most_seconds: float, log: Path) -> dict[str, int]:
    """Kills a run twenty times at random moments of its scoring, then lets one end."""
    orders = json.dumps([N_KILLS, most_seconds, str(log), arguments])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, orders],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    assert result == {"n_killed": N_KILLS, "status": 0}, done.stderr
    return result


def write_outputs(path: Path, *, n_prompts: int) -> Path:
    """Different responses of two policies to each prompt."""
    rows = [
        {
            "prompt_id": f"p{number}",
            "prompt": f"hello w{number % 40} w{number // 40}",
            "policy": policy,
            "response": " ".join(["hello", *["world"] * (number % 20)]),
        }
        for number in range(n_prompts)
        for policy in ("a", "b")
    ]
    for row in rows[1::2]:
        row["response"] = f"kind {row['response']}"
    write_table(pl.DataFrame(rows), path)
    return path


@pytest.mark.parametrize("exact", [True, False])
def test_a_local_run_killed_twenty_times_ends_as_an_uninterrupted_one(
    charm: Callable[..., tuple[int, str, str]], make: MakeModel, tmp_path: Path, exact: bool
) -> None:
    outputs = write_outputs(tmp_path / "outputs.parquet", n_prompts=300)
    common = ["score", str(outputs), "--reward-model", str(make()), "--dtype", "float32"]
    common += ["--batch-tokens", "60", *(["--exact"] if exact else [])]
    out, whole, log = tmp_path / "out.parquet", tmp_path / "whole.parquet", tmp_path / "log"
    run_and_kill([*common, "--out", str(out)], most_seconds=0.08, log=log)
    assert charm(*common, "--out", whole)[0] == 0
    assert pl.read_parquet(out).equals(pl.read_parquet(whole))
    assert not out.with_name("out.parquet.parts").exists()

    batches = [json.loads(line) for line in log.read_text().splitlines()]
    scored = Counter(tuple(ids) for batch in batches for ids in batch)
    assert len(scored) == 600
    again = sum(scored.values()) - 600
    assert 0 < again <= N_KILLS * max(map(len, batches))


def test_a_run_on_a_server_killed_twenty_times_ends_as_an_uninterrupted_one(
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
    charm: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    outputs = write_outputs(tmp_path / "outputs.parquet", n_prompts=600)
    tokenizer_of("llama").save_pretrained(tmp_path / "tokenizer")
    rules = load_text_rules(str(tmp_path / "tokenizer"))
    expected = {
        tuple(ids)
        for ids in rules.encode([conversation(row) for row in read_responses([outputs]).to_dicts()])
    }
    concurrency, per_request = 4, 8
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    with serve(RewardServer(delay=0.05)) as server:
        common = ["score", str(outputs), "--endpoint", server.url, "--model", "rm"]
        common += ["--tokenizer", str(tmp_path / "tokenizer"), "--concurrency", str(concurrency)]
        run_and_kill([*common, "--out", str(out)], most_seconds=0.1, log=tmp_path / "log")
        scored = Counter({ids: n for ids, n in server.seen.items() if ids in expected})
        assert charm(*common, "--out", whole)[0] == 0
    assert pl.read_parquet(out).equals(pl.read_parquet(whole))
    assert not out.with_name("out.parquet.parts").exists()

    assert set(scored) == expected
    again = sum(scored.values()) - len(expected)
    under_way = concurrency * per_request  # and at most as many that are not yet in a part
    assert 0 < again <= N_KILLS * 2 * under_way


def test_a_served_policy_killed_twenty_times_answers_every_prompt_once(
    charm: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    n_prompts, concurrency = 300, 4
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(n_prompts)))
    out, whole = tmp_path / "out", tmp_path / "whole"
    with serve(PolicyServer(delay=0.02)) as server:
        common = ["generate", "--prompts", str(prompts), "--endpoint", server.url, "--model", "m"]
        common += ["--temperature", "0", "--concurrency", str(concurrency)]
        run_and_kill([*common, "--out", str(out)], most_seconds=0.2, log=tmp_path / "log")
        written = Counter(server.answered)
        assert charm(*common, "--out", whole)[0] == 0
    killed, unbroken = pl.read_parquet(out / TABLE), pl.read_parquet(whole / TABLE)
    assert killed.equals(unbroken)
    assert killed["response"].to_list() == [
        true_answer([{"role": "user", "content": f"question {n}"}], None) for n in range(n_prompts)
    ]
    assert not (out / PARTS).exists()
    assert not (out / FAILURES).exists()
    again = sum(written.values()) - n_prompts
    assert 0 < again <= N_KILLS * 4 * concurrency  # under way, or not yet in a part
