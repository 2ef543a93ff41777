"""Run by test_cluster.py in a process of its own: what a pool does with faults."""

import os
import signal
import sys
from collections.abc import Callable

import polars as pl

from charm_rm.data.tables import DataError
from charm_rm.models.cluster import MapChunk, Workers, call_on_worker, map_chunks, open_cluster

ONE = Workers(n=1, cpus=1, gpus=0.0)


def refuse_to_load() -> MapChunk:
    raise DataError("no such model")


def complain_of_seven() -> MapChunk:
    def map_chunk(chunk: pl.DataFrame) -> pl.DataFrame:
        if 7 in chunk["number"]:
            raise DataError("row 7 is bad")
        return chunk

    return map_chunk


def die_of_seven() -> MapChunk:
    def map_chunk(chunk: pl.DataFrame) -> pl.DataFrame:
        if 7 in chunk["number"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return chunk.with_columns(pl.col("number") * 2)

    return map_chunk


def complaint_of(call: Callable[[], object]) -> str:
    try:
        call()
    except DataError as error:
        return str(error).partition(",")[0]
    return "none"


def exercise() -> None:
    """Prints a line for each thing that the test expects."""
    prompts = [[{"role": "user", "content": f"Hi {at}"}] for at in range(8)]
    table = pl.DataFrame({"number": range(8), "prompt": prompts})
    chunks = list(table.iter_slices(2))
    done: list[pl.DataFrame] = []
    with open_cluster("local"):
        lines = [
            f"apart: {call_on_worker(os.getpid, workers=ONE) != os.getpid()}",
            f"no chunks: {list(map_chunks([], refuse_to_load, workers=ONE))}",
            f"task: {complaint_of(lambda: call_on_worker(refuse_to_load, workers=ONE))}",
            "pool: "
            + complaint_of(lambda: list(map_chunks(chunks[3:], complain_of_seven, workers=ONE))),
        ]
        deadly = complaint_of(lambda: done.extend(map_chunks(chunks, die_of_seven, workers=ONE)))
    doubled = table.with_columns(pl.col("number") * 2)
    lines += [f"mapped before: {pl.concat(done).equals(doubled[:6])}", f"deadly: {deadly}"]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    exercise()
