"""Benchmark data from the Hugging Face hub, by name, as a table."""

import polars as pl

from charm_rm.data.tables import DataError


def load_benchmark(name: str, *, split: str) -> pl.DataFrame:
    """One split of a data set, from the hub, its local cache, or a local directory.

    Args:
        name: Hub id or local directory, as `datasets.load_dataset` takes it.
        split: Its split.

    Returns:
        The table as the data set has it.

    Raises:
        DataError: If it can't be loaded; the line says how to go on without the hub.

    Example:
        >>> try:
        ...     load_benchmark("./no-such-folder", split="train")
        ... except DataError as error:
        ...     print(str(error)[:33])
        ./no-such-folder: can't be loaded
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        table: object = load_dataset(name, split=split).to_polars()
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{name}: can't be loaded ({reason}); check the network, or give its files with --data"
        ) from error
    if not isinstance(table, pl.DataFrame):
        raise DataError(f"{name}: its split {split!r} is no table; give its files with --data")
    return table
