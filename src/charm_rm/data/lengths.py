"""Lengths of texts, in Unicode code points, as percentiles."""

import polars as pl

PERCENTILES = (5, 25, 50, 75, 95, 100)


def length_percentiles(texts: pl.Series) -> dict[str, int]:
    """Lengths at which a share of the texts is at most that long; the last is the longest.

    Args:
        texts: Strings without nulls.

    Returns:
        Code points under ``p5, p25, p50, p75, p95, p100``, each the length of one of the texts
        (the smallest with at least that share); empty where there are no texts.

    Example:
        >>> length_percentiles(pl.Series(["a", "bb", "ccc", "dddd"]))["p50"]
        2
    """
    lengths = texts.str.len_chars().sort()
    n = len(lengths)
    return {f"p{p}": int(lengths[max(-(-p * n // 100), 1) - 1]) for p in PERCENTILES} if n else {}
