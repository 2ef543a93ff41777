"""`charm score --ray`: the table of the local run, whatever becomes of a worker or the driver."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from charm_rm.data.responses import read_responses
from charm_rm.data.scores import read_scores
from charm_rm.data.tables import DataError
from charm_rm.models import cluster_scoring
from charm_rm.models.cluster import Workers
from charm_rm.models.cluster_scoring import (
    BATCHES_PER_CHUNK,
    CHARACTERS_PER_TOKEN,
    ClusterModel,
    cut_chunks,
    list_conversations,
    make_scorer,
    score_on_cluster,
)
from charm_rm.models.reward_models import load_reward_model
from charm_rm.models.scoring import score_responses

MakeModel = Callable[..., Path]
Charm = Callable[..., tuple[int, str, str]]

COMMAND = [sys.executable, "-c", "from charm_rm.cli.main import main; main()"]
BATCH_TOKENS = 40
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def write_outputs(path: Path, *, n_prompts: int) -> Path:
    """An AlpacaEval file; policy b is silent on the first prompt, c says what a says."""
    words = {"a": "hello ", "b": "world ", "c": "hello "}
    rows = [
        {
            "instruction": f"hello w{prompt % 40} w{prompt // 40 % 40}",
            "output": "" if (policy, prompt) == ("b", 0) else words[policy] * (1 + prompt % 30),
            "generator": policy,
        }
        for policy in words
        for prompt in range(n_prompts)
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def responses(tmp_path: Path) -> pl.DataFrame:
    return read_responses([write_outputs(tmp_path / "outputs.json", n_prompts=40)])


@pytest.fixture
def model(make: MakeModel) -> ClusterModel:
    """A tiny model as a worker describes it, on one worker."""
    load = partial(load_reward_model, str(make()), dtype="float32", max_length=25)
    return cluster_scoring._describe(load, Workers(n=1, cpus=1, gpus=0.0))


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> "Pool":
    """Chunks mapped in this process, the last one first, instead of by Ray."""
    pool = Pool()
    monkeypatch.setattr(cluster_scoring, "map_chunks", pool.map_chunks)
    return pool


class Pool:
    def __init__(self) -> None:
        self.n_rows = 0
        self.breaks_after: int | None = None

    def map_chunks(
        self, chunks: Sequence[pl.DataFrame], make: Callable[[], Any], *, workers: Workers
    ) -> Iterator[pl.DataFrame]:
        assert workers.n == 1
        score_chunk = make() if chunks else None
        for number, chunk in enumerate(reversed(chunks)):
            if number == self.breaks_after:
                raise KeyboardInterrupt
            self.n_rows += len(chunk)
            yield score_chunk(chunk)  # type: ignore[misc]


# Without Ray: what the driver and a worker do


def test_the_table_is_that_of_the_local_run(
    responses: pl.DataFrame, model: ClusterModel, pool: Pool, tmp_path: Path
) -> None:
    local = score_responses(responses, model.load(), parts=tmp_path / "local.parts")
    assert local["truncated"].any()
    parts = tmp_path / "cluster.parts"
    table = score_on_cluster(responses, model, parts=parts, batch_tokens=BATCH_TOKENS)
    assert_frame_equal(table, local, abs_tol=1e-5)  # other packs, other rounding
    assert pool.n_rows == 80  # policy c repeats policy a


def test_a_driver_that_stops_resumes_from_its_parts(
    responses: pl.DataFrame, model: ClusterModel, pool: Pool, tmp_path: Path
) -> None:
    score = partial(score_on_cluster, responses, model, batch_tokens=BATCH_TOKENS)
    pool.breaks_after = 2
    with pytest.raises(KeyboardInterrupt):
        score(parts=tmp_path / "parts")
    assert 0 < pool.n_rows < 80
    pool.breaks_after = None
    resumed = score(parts=tmp_path / "parts")
    assert pool.n_rows == 80
    assert resumed.equals(score(parts=tmp_path / "whole.parts"))
    again = score(parts=tmp_path / "parts")
    assert (again.equals(resumed), pool.n_rows) == (True, 160)


def test_parts_of_other_responses_are_kept_but_not_counted(
    responses: pl.DataFrame, model: ClusterModel, pool: Pool, tmp_path: Path
) -> None:
    reports: list[tuple[int, int]] = []
    policy_b = responses.filter(pl.col("policy") == "b")
    score_on_cluster(responses, model, parts=tmp_path / "parts")
    table = score_on_cluster(
        policy_b,
        model,
        parts=tmp_path / "parts",
        on_progress=lambda *report: reports.append(report),
    )
    assert pool.n_rows == 80
    n_read = int(table["n_tokens"].clip(upper_bound=25).sum())
    assert reports == [(n_read, n_read)]


@pytest.mark.usefixtures("pool")
def test_progress_counts_tokens_and_ends_exactly(
    responses: pl.DataFrame, model: ClusterModel, tmp_path: Path
) -> None:
    reports: list[tuple[int, int]] = []
    table = score_on_cluster(
        responses,
        model,
        parts=tmp_path / "parts",
        batch_tokens=BATCH_TOKENS,
        on_progress=lambda *report: reports.append(report),
    )
    distinct = table.filter(pl.col("policy") != "c")
    n_read = int(distinct["n_tokens"].clip(upper_bound=25).sum())
    assert reports[0][0] == 0
    assert reports[-1] == (n_read, n_read)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_parts_of_a_local_run_are_refused(
    responses: pl.DataFrame, model: ClusterModel, pool: Pool, tmp_path: Path
) -> None:
    score_responses(responses, model.load(), parts=tmp_path / "parts")
    with pytest.raises(DataError, match="key None there, 'conversation' now"):
        score_on_cluster(responses, model, parts=tmp_path / "parts")
    assert pool.n_rows == 0


def test_a_malformed_conversation_is_named_before_any_worker_starts(
    responses: pl.DataFrame, model: ClusterModel, tmp_path: Path
) -> None:
    prompt = pl.Series("prompt", [[{"role": "user", "content": " "}]])
    bad = responses.head(1).with_columns(prompt)
    with pytest.raises(DataError, match=r"policy 'a': message 0 \(user\) is empty"):
        score_on_cluster(bad, model, parts=tmp_path / "parts")


@pytest.mark.usefixtures("pool")
def test_prompts_that_fill_the_length_are_told_also_by_a_resumed_run(
    responses: pl.DataFrame, make: MakeModel, tmp_path: Path
) -> None:
    load = partial(load_reward_model, str(make()), dtype="float32", max_length=12)
    model = cluster_scoring._describe(load, Workers(n=1, cpus=1, gpus=0.0))
    long_prompt = [{"role": "user", "content": "hello " * 12}]
    rows = responses.head(3).to_dicts()
    mixed = pl.DataFrame([rows[0] | {"prompt": long_prompt}, *rows[1:]])
    for _ in range(2):
        told: list[str] = []
        score_on_cluster(mixed, model, parts=tmp_path / "parts", on_warning=told.append)
        assert [line.partition(":")[0] for line in told] == ["of 1 of 3 responses nothing is read"]
    with pytest.raises(DataError, match="of 1 of 1 responses nothing is read"):
        score_on_cluster(mixed.head(1), model, parts=tmp_path / "one.parts")


@pytest.mark.usefixtures("pool")
def test_a_score_that_is_not_finite_names_its_response(
    responses: pl.DataFrame, model: ClusterModel, tmp_path: Path
) -> None:
    broken = SimpleNamespace(
        max_length=25,
        fingerprint=model.fingerprint,
        encode=lambda texts: [[1]] * len(texts),
        score_ids=lambda ids, **_: np.full(len(ids), np.nan),
    )
    spoiled = ClusterModel(**{**vars(model), "load": lambda: broken})
    with pytest.raises(DataError, match=r"of 'b' to prompt '\w{16}' is nan in float32"):
        score_on_cluster(
            responses.filter(pl.col("policy") == "b"), spoiled, parts=tmp_path / "parts"
        )
    assert not list((tmp_path / "parts").glob("0*.parquet"))


def test_a_worker_with_other_weights_is_refused(make: MakeModel, model: ClusterModel) -> None:
    other = partial(load_reward_model, str(make(name="other", seed=1)), dtype="float32")
    with pytest.raises(DataError, match=r"two workers loaded different models \(.*weights '\w+'"):
        make_scorer(other, settings=model.settings)


def test_chunks_hold_every_row_once_and_a_long_one_is_alone() -> None:
    sizes = [5, 3, 40, 2, 9, 1, 7]
    work = pl.DataFrame({"prompt_id": list("bacdbca"), "n_characters": sizes})
    chunks = cut_chunks(work, characters=10)
    totals = [chunk["n_characters"].sum() for chunk in chunks]
    assert sorted(pl.concat(chunks)["n_characters"]) == sorted(sizes)
    assert chunks[0]["n_characters"].to_list() == [40]
    assert max(totals[1:]) <= 10
    assert cut_chunks(work.clear(), characters=10) == []


# With Ray


def test_a_worker_killed_in_the_middle_loses_nothing(
    charm: Charm, make: MakeModel, tmp_path: Path
) -> None:
    outputs = write_outputs(tmp_path / "outputs.json", n_prompts=300)
    whole, out = tmp_path / "whole.parquet", tmp_path / "scores.parquet"
    model = ("--reward-model", make(), "--dtype", "float32")
    parts = tmp_path / "scores.parquet.parts"
    work = list_conversations(read_responses([outputs])).unique("key")
    n_chunks = len(
        cut_chunks(work, characters=BATCHES_PER_CHUNK * CHARACTERS_PER_TOKEN * BATCH_TOKENS)
    )
    arguments = ["score", outputs, *model, "--out", out, "--batch-tokens", BATCH_TOKENS]
    with (tmp_path / "words").open("w") as words:
        running = subprocess.Popen(
            [*COMMAND, *map(str, arguments), "--ray", "--ray-workers", "2", "--json"],
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # by which its processes are known
        )
    try:
        while not list(parts.glob("0*.parquet")):
            assert running.poll() is None, (tmp_path / "words").read_text()
            time.sleep(0.005)
        workers = [pid for pid in session_of(running.pid) if "MapWorker" in name_of(pid)]
        os.kill(workers[0], signal.SIGKILL)
        n_parts = len(list(parts.glob("0*.parquet")))
        listening = addresses_of(session_of(running.pid))
        printed, _ = running.communicate(timeout=300)
    finally:
        running.kill()
    said = (tmp_path / "words").read_text()
    assert running.returncode == 0, said
    assert len(workers) == 2
    assert n_parts < n_chunks / 2  # it was in the middle
    assert listening  # and nobody outside could join
    assert listening <= LOOPBACK

    assert charm("score", outputs, *model, "--out", whole)[0] == 0
    assert_frame_equal(read_scores([out]), read_scores([whole]), abs_tol=1e-5)
    document = json.loads(printed)
    assert document["n_responses"] == 900
    assert "on 2 workers (cpu)" in said
    assert not parts.exists()
    wait_until_gone(running.pid)


def session_of(leader: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, *fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader and state != "Z":
            found.append(int(folder.name))
    return found


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def addresses_of(pids: list[int]) -> set[str]:
    """Local addresses, as the kernel writes them, on which these processes listen for TCP."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue
    rows = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def wait_until_gone(leader: int) -> None:
    until = time.monotonic() + 60
    while session_of(leader):
        assert time.monotonic() < until, [name_of(pid) for pid in session_of(leader)]
        time.sleep(0.05)
