"""Responses in order: numbers of samples, and policies whose rows come in another order."""

from collections import Counter

import polars as pl

from charm_rm.data.tables import DataError


def number_samples(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Samples: the files' own numbers, else a count of the rows of a prompt and policy.

    Args:
        frame: With ``prompt_id, policy, sample`` (null where the file has no number) and ``row``,
            which says where it stands.

    Returns:
        The rows with every ``sample`` filled, and how many stand for a prompt and policy that had
        a row before.

    Raises:
        DataError: If two rows have the same prompt, policy and number of their own.

    Example:
        >>> columns = {"prompt_id": ["p", "p"], "policy": ["a", "a"], "row": ["1", "2"]}
        >>> frame = pl.DataFrame(columns).with_columns(pl.lit(None, dtype=pl.Int64).alias("sample"))
        >>> number_samples(frame)[0]["sample"].to_list()
        [0, 1]
    """
    key = ["prompt_id", "policy"]
    own = frame.filter(pl.col("sample").is_not_null())
    repeat = own.filter(~own.select(*key, "sample").is_unique())
    if not repeat.is_empty():
        first = repeat.row(0, named=True)
        raise DataError(
            f"{repeat['row'][1]}: prompt {first['prompt_id']!r}, policy {first['policy']!r}, "
            f"sample {first['sample']} stands in an earlier row too; number the samples"
        )
    taken = set(own.select(*key, "sample").iter_rows())
    samples, n_numbered = [], 0
    next_free: dict[tuple[str, str], int] = {}
    for prompt_id, policy, sample in frame.select(*key, "sample").iter_rows():
        if sample is not None:
            samples.append(sample)
            continue
        n = next_free.get((prompt_id, policy), 0)
        while (prompt_id, policy, n) in taken:
            n += 1
        next_free[prompt_id, policy] = n + 1
        n_numbered += n > 0
        samples.append(n)
    return frame.with_columns(pl.Series("sample", samples, dtype=pl.Int64)), n_numbered


def reordered_policies(frame: pl.DataFrame) -> tuple[str, ...]:
    """Policies whose prompts come in another order than most have them; harmless, but worth a word.

    Args:
        frame: With ``prompt_id`` and ``policy``, in the order of the files.

    Returns:
        Names, sorted. Of equally common orders the longest is the usual one, then the first.

    Example:
        >>> columns = {"prompt_id": ["p", "q", "p", "q", "q", "p"], "policy": list("aabbcc")}
        >>> reordered_policies(pl.DataFrame(columns))
        ('c',)
    """
    orders = {
        policy: tuple(dict.fromkeys(rows["prompt_id"]))
        for (policy,), rows in frame.group_by(["policy"], maintain_order=True)
    }
    votes = Counter(orders.values())
    commonest = max(votes, key=lambda order: (votes[order], len(order)))
    usual = {one: n for n, one in enumerate(commonest)}
    places = {
        policy: [usual[one] for one in order if one in usual] for policy, order in orders.items()
    }
    return tuple(sorted(policy for policy, place in places.items() if place != sorted(place)))
