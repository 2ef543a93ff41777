"""Benchmark items: chosen and rejected responses to one prompt, and their scores.

Items are kept as a table of responses, so that they are scored like any others and the scores of
a benchmark are a score table: ``prompt_id`` is ``GROUP/ID``, such as ``chat/8``, and ``policy`` is
the place of the response, ``chosen_1 ... rejected_3``.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from charm_rm.core.win_rates import Floats
from charm_rm.data.prompts import Message, as_messages, prompt_digest
from charm_rm.data.responses import conversation
from charm_rm.data.scores import UNNAMED
from charm_rm.data.tables import DataError, not_found, read_table, require_columns

SIDES = ("chosen", "rejected")
PLACE = re.compile(r"(chosen|rejected)_([1-9][0-9]*)")
Sides = tuple[Floats, Floats]  # scores of the chosen and of the rejected responses, in order
GroupOf = Callable[[Mapping[str, Any], str], str]  # row and file -> name of its group
PlainRewardModel = Callable[[Sequence[Sequence[Message]]], ArrayLike]


def read_items(
    paths: Iterable[str | Path], *, group_of: GroupOf, groups: Sequence[str]
) -> pl.DataFrame:
    r"""Items from files, as a table of responses.

    Args:
        paths: Files that `charm_rm.data.tables.read_table` reads.
        group_of: Gives the group of a row.
        groups: Names that a group may have.

    Returns:
        As `make_items`.

    Raises:
        DataError: If a file can't be read, or as `make_items`.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "items.jsonl"
        >>> _ = path.write_text('{"id": 1, "prompt": "Hi", "chosen": "Hello", "rejected": "No"}\n')
        >>> items = read_items([path], group_of=lambda row, where: "chat", groups=["chat"])
        >>> items.select("prompt_id", "policy", "response").rows()
        [('chat/1', 'chosen_1', 'Hello'), ('chat/1', 'rejected_1', 'No')]
        >>> folder.cleanup()
    """
    names = [str(path) for path in paths]
    if not names:
        raise DataError("no benchmark data given; name at least one file")
    tables = {name: read_table(name) for name in names}
    return make_items(tables, group_of=group_of, groups=groups)


def make_items(
    tables: Mapping[str, pl.DataFrame], *, group_of: GroupOf, groups: Sequence[str]
) -> pl.DataFrame:
    """Items as a table of responses.

    Args:
        tables: By name of the file: columns ``prompt, chosen, rejected`` (a text, or a list of
            texts) and ``id`` or ``subset_index``; without either, the id is the prompt's digest.
        group_of: Gives the group of a row.
        groups: Names that a group may have.

    Returns:
        Columns ``prompt_id, prompt, policy, sample, response, category``, one row per response;
        the category is the group.

    Raises:
        DataError: If a column is missing, a group is unknown, a row lacks a text, or an item
            stands twice.

    Example:
        >>> row = {"id": [7], "prompt": ["Hi"], "chosen": [["Hello", "Hey"]], "rejected": [["No"]]}
        >>> tables = {"made up": pl.DataFrame(row)}
        >>> items = make_items(tables, group_of=lambda row, where: "chat", groups=["chat"])
        >>> items["policy"].to_list()
        ['chosen_1', 'chosen_2', 'rejected_1']
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for where, table in tables.items():
        require_columns(table, ("prompt", *SIDES), where=where)
        for number, raw in enumerate(table.iter_rows(named=True), start=1):
            place = f"{where}: row {number}"
            group = group_of(raw, place)
            if group not in groups:
                raise not_found("group", group, names=groups, where=place)
            item = _item_rows(raw, group, where=place)
            if item[0]["prompt_id"] in seen:
                raise DataError(f"{place}: item {item[0]['prompt_id']!r} stands twice; keep one")
            seen.add(item[0]["prompt_id"])
            rows += item
    if not rows:
        raise DataError(f"{', '.join(tables)}: no rows; give a file with benchmark items")
    return pl.DataFrame(rows, infer_schema_length=None)


def _item_rows(raw: Mapping[str, Any], group: str, *, where: str) -> list[dict[str, Any]]:
    try:
        messages = as_messages(raw["prompt"])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    given = next((raw[key] for key in ("id", "subset_index") if raw.get(key) is not None), None)
    shared = {
        "prompt_id": f"{group}/{prompt_digest(messages) if given is None else given}",
        "prompt": messages,
    }
    rows = []
    for side in SIDES:
        texts = raw[side] if isinstance(raw[side], list) else [raw[side]]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: {side} is {raw[side]!r}; give a text or a list of texts")
        rows += [
            {**shared, "policy": f"{side}_{at}", "sample": 0, "response": text, "category": group}
            for at, text in enumerate(texts, start=1)
        ]
    return rows


def choose_items(
    items: pl.DataFrame,
    *,
    only: Sequence[str] | None = None,
    n_per_group: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Some of the items: those of certain groups, or a random sample of each group.

    Args:
        items: As `make_items` returns them.
        only: Groups to keep; by default all.
        n_per_group: Items to draw from each group, without replacement; by default all.
        seed: Of the draw, which depends on the ids alone and not on their order.

    Returns:
        The rows of the chosen items, in their order.

    Raises:
        DataError: If a group is not among the items.
        ValueError: If ``n_per_group`` is not positive.

    Example:
        >>> row = {"id": [1, 2, 3], "prompt": ["a", "b", "c"]}
        >>> table = pl.DataFrame(row | {"chosen": ["x"] * 3, "rejected": ["y"] * 3})
        >>> items = make_items({"": table}, group_of=lambda row, where: "chat", groups=["chat"])
        >>> choose_items(items, n_per_group=2)["prompt_id"].n_unique()
        2
    """
    known = items["category"].unique().sort().to_list()
    for group in only or []:
        if group not in known:
            raise not_found("group", group, names=known, where="benchmark data")
    kept = items.filter(pl.col("category").is_in(only)) if only else items
    if n_per_group is None:
        return kept
    if n_per_group < 1:
        raise ValueError(f"n_per_group is {n_per_group}; give a positive number of items")
    drawn: list[str] = []
    for group in kept["category"].unique().sort():
        ids = kept.filter(pl.col("category") == group)["prompt_id"].unique().sort().to_list()
        rng = np.random.default_rng(seed)
        drawn += [ids[at] for at in rng.permutation(len(ids))[:n_per_group]]
    return kept.filter(pl.col("prompt_id").is_in(drawn))


def score_items(items: pl.DataFrame, reward_model: PlainRewardModel) -> pl.DataFrame:
    """Scores of all responses of the items, by any reward model; nothing is kept on the way.

    Args:
        items: As `make_items` returns them.
        reward_model: Conversations -> score points, shape (n,).

    Returns:
        A score table: ``prompt_id, policy, sample, score, reward_model, category``.

    Raises:
        ValueError: If the reward model gives another number of scores, or one is not finite.

    Example:
        >>> row = {"id": [1], "prompt": ["Hi"], "chosen": ["Hello"], "rejected": ["No"]}
        >>> tables = {"made up": pl.DataFrame(row)}
        >>> items = make_items(tables, group_of=lambda row, where: "chat", groups=["chat"])
        >>> by_length = lambda texts: [float(len(text[-1]["content"])) for text in texts]
        >>> score_items(items, by_length)["score"].to_list()
        [5.0, 2.0]
    """
    conversations = [conversation(row) for row in items.iter_rows(named=True)]
    scores = np.asarray(reward_model(conversations), dtype=np.float64)
    if scores.shape != (len(items),) or not np.isfinite(scores).all():
        raise ValueError(
            f"the reward model gave scores of shape {scores.shape}, "
            f"{np.count_nonzero(~np.isfinite(scores))} of them not finite, for {len(items)} "
            "responses; it must give one finite score each"
        )
    name = str(getattr(reward_model, "name", UNNAMED))
    return items.select(
        "prompt_id",
        "policy",
        "sample",
        pl.Series("score", scores),
        pl.lit(name).alias("reward_model"),
        "category",
    )


def sides_by_group(scores: pl.DataFrame, *, groups: Sequence[str]) -> dict[str, dict[str, Sides]]:
    """Scores of a benchmark by group and item.

    Args:
        scores: A score table of items, see the module.
        groups: Names that a group may have; the result has their order.

    Returns:
        For each group that is there, by item id in its order, the scores of the chosen and of the
        rejected responses, shapes (n_chosen,) and (n_rejected,).

    Raises:
        DataError: If an id or a policy is not of the form above, a group is unknown, there are
            several samples, or a response is missing.

    Example:
        >>> rows = {"prompt_id": ["chat/8"] * 2, "policy": ["rejected_1", "chosen_1"]}
        >>> table = pl.DataFrame(rows | {"sample": [0, 0], "score": [1.0, 2.0]})
        >>> sides_by_group(table, groups=["chat"])
        {'chat': {'8': (array([2.]), array([1.]))}}
    """
    if scores["sample"].n_unique() > 1:
        raise DataError("scores: several samples of one item; a benchmark has one, so keep one")
    found: dict[str, dict[str, tuple[dict[int, float], dict[int, float]]]] = {g: {} for g in groups}
    for prompt_id, policy, score in scores.select("prompt_id", "policy", "score").iter_rows():
        group, slash, item = prompt_id.partition("/")
        place = PLACE.fullmatch(policy)
        if not slash or place is None:
            raise DataError(
                f"scores: prompt {prompt_id!r}, policy {policy!r} is no benchmark item; ids are "
                "like 'chat/8' and policies 'chosen_1' or 'rejected_1'"
            )
        if group not in found:
            raise not_found("group", group, names=groups, where="scores")
        sides = found[group].setdefault(item, ({}, {}))
        sides[SIDES.index(place[1])][int(place[2])] = score
    return {
        group: {item: _in_order(sides, f"{group}/{item}") for item, sides in sorted(items.items())}
        for group, items in found.items()
        if items
    }


def _in_order(sides: tuple[dict[int, float], dict[int, float]], item: str) -> Sides:
    arrays = []
    for side, scores in zip(SIDES, sides, strict=True):
        for place in range(1, max(len(scores), 1) + 1):
            if place not in scores:
                raise DataError(f"scores: item {item!r} has no {side}_{place}; score it as well")
        arrays.append(np.array([scores[place] for place in sorted(scores)]))
    return arrays[0], arrays[1]
