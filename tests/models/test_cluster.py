"""The actor pool: where workers go, what a wrong address says, and what a dead worker costs."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charm_rm.cli.options import fill_optional_values
from charm_rm.data.tables import DataError
from charm_rm.models.cluster import (
    DEATHS_PER_CHUNK,
    Workers,
    open_cluster,
    plan_workers,
)

# Where workers go


@pytest.mark.parametrize(
    ("nodes", "asked", "use_gpus", "expected"),
    [
        ([{"CPU": 96.0, "GPU": 8.0}], None, True, Workers(8, 1, 1.0)),
        ([{"CPU": 96.0, "GPU": 8.0}], 16, True, Workers(16, 1, 0.5)),
        ([{"CPU": 96.0, "GPU": 8.0}], 12, True, Workers(12, 1, 0.5)),
        ([{"CPU": 96.0, "GPU": 8.0}], 3, True, Workers(3, 1, 1.0)),
        ([{"CPU": 4.0}, {"CPU": 64.0, "GPU": 4.0}], None, True, Workers(4, 1, 1.0)),
        ([{"CPU": 96.0, "GPU": 8.0}], None, False, Workers(1, 96, 0.0)),
        ([{"CPU": 16.0}, {"CPU": 16.0}], None, True, Workers(2, 16, 0.0)),
        ([{"CPU": 16.0}, {"CPU": 4.0}], None, True, Workers(2, 8, 0.0)),
        ([{"CPU": 16.0}, {}], None, True, Workers(1, 16, 0.0)),
        ([{"CPU": 2.0}], 2, True, Workers(2, 1, 0.0)),
    ],
)
def test_workers_are_laid_out_over_the_nodes(
    nodes: list[dict[str, float]], asked: int | None, use_gpus: bool, expected: Workers
) -> None:
    assert plan_workers(nodes, n_workers=asked, use_gpus=use_gpus) == expected


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=6),
    st.integers(1, 40),
)
def test_a_layout_always_fits(sizes: list[tuple[int, int]], asked: int) -> None:
    nodes = [{"CPU": float(cores), "GPU": float(gpus)} for cores, gpus in sizes]
    if asked > sum(cores for cores, _ in sizes):
        with pytest.raises(DataError, match=f"{asked} workers on"):
            plan_workers(nodes, n_workers=asked)
        return
    workers = plan_workers(nodes, n_workers=asked)
    assert workers.n == asked
    if workers.gpus:
        assert sum(int(gpus / workers.gpus + 1e-6) for _, gpus in sizes) >= asked
    else:
        assert sum(cores // workers.cpus for cores, _ in sizes) >= asked


def test_a_cluster_without_cores_is_refused() -> None:
    with pytest.raises(DataError, match="no workers on 0 cores"):
        plan_workers([{"memory": 1.0}])


# The address


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("outputs.json", "not an address; give HOST:PORT, auto or local"),
        ("head:port", "not an address"),
        ("head:99999", "not an address"),
        ("ray://head:10001", "Ray's client is not used"),
    ],
)
def test_what_is_no_address_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(DataError, match=f"--ray {address}: {complaint}"), open_cluster(address):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(DataError, match=f"--ray {address}: no answer there"), open_cluster(address):
        pass
    assert time.monotonic() - started < 10


def test_missing_ray_is_one_line_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    needs_ray = r"^--ray needs ray: pip install 'charm-rm\[ray\]'$"
    with pytest.raises(DataError, match=needs_ray), open_cluster("local"):
        pass


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ("score a.json --ray", "score a.json --ray="),
        ("score a.json --ray --out b.csv", "score a.json --ray= --out b.csv"),
        ("score a.json --ray head:6379", "score a.json --ray head:6379"),
        ("score a.json --ray=auto", "score a.json --ray=auto"),
        ("score -- --ray -x", "score -- --ray -x"),
    ],
)
def test_the_address_may_be_left_out(given: str, filled: str) -> None:
    assert fill_optional_values(given.split()) == filled.split()


# A real pool, in a process of its own: one that has opened Ray never quite forgets it.


def test_a_pool_passes_complaints_on_and_gives_a_deadly_chunk_up() -> None:
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("exercise_pool.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines == [
        "apart: True",
        "no chunks: []",
        "task: no such model",
        "pool: row 7 is bad",
        "mapped before: True",
        f"deadly: a chunk killed {DEATHS_PER_CHUNK} workers",
    ]
