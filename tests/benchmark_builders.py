"""Random benchmark scores and items, small."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

Item = tuple[str, int, int]  # id, number of chosen, number of rejected responses


def make_scores(
    items: Sequence[Item], *, seed: int = 0, decimals: int = 1, name: str = "toy-rm"
) -> pl.DataFrame:
    """Random scores, coarse enough for ties, in a random order of rows."""
    rng = np.random.default_rng(seed)
    rows = [
        (item, f"{side}_{at + 1}", 0, round(float(rng.normal()), decimals), name)
        for item, *sizes in items
        for side, size in zip(("chosen", "rejected"), sizes, strict=True)
        for at in range(size)
    ]
    names = ["prompt_id", "policy", "sample", "score", "reward_model"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    order = pl.Series(rng.permutation(len(frame)))
    return frame.select(pl.all().gather(order))


def as_dict(scores: pl.DataFrame) -> dict[tuple[str, str], float]:
    """Score by (item, place), for twins that loop."""
    return {(i, p): s for i, p, s in scores.select("prompt_id", "policy", "score").iter_rows()}


def group_items(counts: Mapping[str, int], n_chosen: int, n_rejected: int) -> list[Item]:
    """Items of several groups, all of one shape."""
    return [
        (f"{group}/{at}", n_chosen, n_rejected) for group, n in counts.items() for at in range(n)
    ]


def by_length(conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
    """A reward model that likes long responses."""
    return [float(len(messages[-1]["content"])) for messages in conversations]


def write_chat(folder: Path) -> Path:
    """RM-Bench's original layout: a JSON list, the domain in the file's name."""
    rows = [
        {
            "id": item,
            "prompt": f"hello w{item}",
            "chosen": [f"w{item} " * n for n in (1, 5, 9)],
            "rejected": [f"w{item + 1} " * n for n in (1, 5, 9)],
        }
        for item in range(8)
    ]
    path = folder / "chat_filtered.json"
    path.write_text(json.dumps(rows))
    return path
