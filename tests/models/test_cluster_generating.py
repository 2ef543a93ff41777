"""`charm generate --ray`: the answers of the local run, whichever worker writes them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from charm_rm.data.prompts import as_messages
from charm_rm.data.tables import DataError
from charm_rm.models import cluster_generating
from charm_rm.models.cluster import Workers
from charm_rm.models.cluster_generating import ClusterPolicy, make_writer
from charm_rm.models.local_policy import load_local_policy
from charm_rm.models.policies import Failure, Request, Sampling, request_seed

MakeModel = Callable[..., Path]
Charm = Callable[..., tuple[int, str, str]]

SAMPLING = Sampling(max_new_tokens=12)
COMMAND = [sys.executable, "-c", "from charm_rm.cli.main import main; main()"]


def requests_of(n: int) -> list[Request]:
    return [
        Request(f"p{at}", 0, tuple(as_messages(f"hello w{at}")), request_seed(0, f"p{at}", 0))
        for at in range(n)
    ]


@pytest.fixture
def folder(make: MakeModel) -> Path:
    return make("qwen", causal=True)


@pytest.fixture
def policy(folder: Path) -> ClusterPolicy:
    """A tiny policy as a worker describes it, on two workers."""
    load = partial(load_local_policy, str(folder), sampling=SAMPLING, dtype="float32", n_slots=2)
    return cluster_generating._describe(load, Workers(n=2, cpus=1, gpus=0.0))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the chunks, which are mapped in this process, the last one first."""
    found: list[int] = []

    def map_chunks(
        chunks: Sequence[pl.DataFrame], make: Callable[[], Any], *, workers: Workers
    ) -> Iterator[pl.DataFrame]:
        assert workers.n == 2
        write_chunk = make() if chunks else None
        for chunk in reversed(chunks):
            found.append(len(chunk))
            yield write_chunk(chunk)  # type: ignore[misc]

    monkeypatch.setattr(cluster_generating, "map_chunks", map_chunks)
    return found


def test_outcomes_are_those_of_the_local_policy(policy: ClusterPolicy, sizes: list[int]) -> None:
    long = Request("long", 0, tuple(as_messages("kind " * 200)), 0)
    requests = [*requests_of(20), long]
    local = {one.request.prompt_id: one for one in policy.load()(requests)}
    outcomes = {one.request.prompt_id: one for one in policy(requests)}
    assert outcomes == local
    assert isinstance(outcomes["long"], Failure)
    assert sizes == [3] * 7


def test_chunks_keep_the_slots_full_and_no_worker_waiting(
    policy: ClusterPolicy, sizes: list[int]
) -> None:
    assert (policy.n_at_once, policy.workers.n) == (2, 2)
    for n in (0, 1, 8, 70):
        assert len(list(policy(requests_of(n)))) == n
    assert sizes == [1] + [1] * 8 + [6] + [8] * 8


def test_the_driver_knows_the_policy_as_a_worker_found_it(policy: ClusterPolicy) -> None:
    local = policy.load()
    assert policy.fingerprint() == local.fingerprint()
    assert (policy.name, policy.context_length) == ("model", 128)
    assert policy.device == "2 workers (cpu)"


def test_a_worker_with_other_weights_is_refused(policy: ClusterPolicy, make: MakeModel) -> None:
    other = make("qwen", causal=True, name="other", seed=1)
    load = partial(load_local_policy, str(other), sampling=SAMPLING, dtype="float32")
    with pytest.raises(DataError, match=r"two workers loaded different models \(.*weights '\w+'"):
        make_writer(load, settings=policy.settings)


@pytest.mark.usefixtures("sizes")
def test_what_ends_a_worker_ends_the_run(policy: ClusterPolicy) -> None:
    def refuse() -> Any:
        raise DataError("no memory")

    with pytest.raises(DataError, match="no memory"):
        list(replace(policy, load=refuse)(requests_of(1)))


def test_two_workers_of_a_real_cluster_write_the_table_of_a_local_run(
    charm: Charm, folder: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"hello w{at}"}) + "\n" for at in range(24)))
    arguments = ["generate", "--model", folder, "--prompts", prompts, "--max-new-tokens", 12]
    arguments += ["--dtype", "float32", "--concurrency", 2]
    done = subprocess.run(
        [*COMMAND, *map(str, [*arguments, "--out", "cluster", "--ray", "--ray-workers", 2])],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "24 responses wanted; model in float32 on 2 workers (cpu)" in done.stderr
    assert charm(*arguments, "--out", tmp_path / "local")[0] == 0
    cluster, local = (
        pl.read_parquet(tmp_path / name / "responses.parquet") for name in ("cluster", "local")
    )
    assert cluster.equals(local)
    assert len(local) == 24
    again = charm(*arguments, "--samples", 2, "--out", tmp_path / "cluster")
    assert again[0] == 0  # what a cluster began, one machine goes on with
    grown = pl.read_parquet(tmp_path / "cluster" / "responses.parquet")
    assert grown.filter(pl.col("sample") == 0).equals(local)
    assert len(grown) == 48
