"""Ids of prompts, and draws that depend on nothing but them."""

import hashlib
import heapq
from collections import Counter

import polars as pl

from charm_rm.data.tables import DataError


def refuse_clashes(frame: pl.DataFrame) -> None:
    """One id that the data gives to two prompts would join the wrong responses to scores.

    Args:
        frame: With ``prompt_id`` (null where the data has none), ``digest`` of the prompt, and
            ``row``, which says where it stands.

    Raises:
        DataError: If an id stands for two prompts.

    Example:
        >>> columns = {"prompt_id": ["p"], "digest": ["d"], "row": ["prompts.csv: row 1"]}
        >>> refuse_clashes(pl.DataFrame(columns))
    """
    given = frame.filter(pl.col("prompt_id").is_not_null())
    clash = given.filter(pl.col("digest").n_unique().over("prompt_id") > 1)
    if not clash.is_empty():
        same = clash.filter(pl.col("prompt_id") == clash["prompt_id"][0])
        first, second = same.unique("digest", keep="first", maintain_order=True)["row"][:2]
        raise DataError(
            f"{second}: id {same['prompt_id'][0]!r} stands for another prompt than in "
            f"{first}; give each prompt an id of its own"
        )


def give_ids(frame: pl.DataFrame) -> pl.DataFrame:
    """Ids where the data has none: the digest, numbered from the second row of a prompt on.

    Args:
        frame: As for `refuse_clashes`.

    Returns:
        The rows, each with an id of its own; those that came with the data are kept.

    Raises:
        DataError: If an id that came with the data stands twice.

    Example:
        >>> columns = {"prompt_id": [None, None], "digest": ["d", "d"], "row": ["1", "2"]}
        >>> give_ids(pl.DataFrame(columns))["prompt_id"].to_list()
        ['d', 'd-2']
    """
    given = frame.filter(pl.col("prompt_id").is_not_null())
    twice = given.filter(~given["prompt_id"].is_first_distinct())
    if not twice.is_empty():
        raise DataError(
            f"{twice['row'][0]}: id {twice['prompt_id'][0]!r} stands in an earlier row too; "
            "give each row an id of its own, or give --merge-duplicates"
        )
    taken = set(given["prompt_id"])
    seen: Counter[str] = Counter()
    ids = []
    for one, digest in frame.select("prompt_id", "digest").iter_rows():
        free = one
        while free is None or (one is None and free in taken):
            seen[digest] += 1
            free = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        taken.add(free)
        ids.append(free)
    return frame.with_columns(pl.Series("prompt_id", ids, dtype=pl.String))


def sample_prompts(frame: pl.DataFrame, n: int, *, seed: int = 0) -> pl.DataFrame:
    """``n`` prompts drawn at random without replacement, each set equally likely.

    Drawn are the ``n`` smallest digests of seed and id. So the draw depends on neither the order
    of the rows nor the release of a library, and a smaller draw is part of a larger one.

    Args:
        frame: Prompts, one row each.
        n: How many to draw.
        seed: Another seed, another draw.

    Returns:
        The rows drawn, in the order that they had.

    Raises:
        DataError: If there are fewer than ``n``.

    Example:
        >>> sample_prompts(pl.DataFrame({"prompt_id": ["a", "b", "c"]}), 2)["prompt_id"].to_list()
        ['a', 'c']
    """
    if n > len(frame):
        raise DataError(
            f"{n} prompts to be drawn of {len(frame)} usable ones; draw fewer, or take them all"
        )
    keys = [hashlib.sha256(f"{seed}:{one}".encode()).digest() for one in frame["prompt_id"]]
    drawn = heapq.nsmallest(n, range(len(keys)), key=keys.__getitem__)
    return frame[sorted(drawn)]
