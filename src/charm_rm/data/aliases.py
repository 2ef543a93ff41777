"""One model, several names: the Arena's keys for the names that data sets and hubs use.

A name matches only when it equals a rated model's after normalising, or by a row of
``snapshots/aliases.csv``, whose every row has a source. A name that is merely close is suggested
to the reader and never matched: the wrong model's rating is worse than none.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import polars as pl

from charm_rm.data.arena import ALIASES, EloTable, elo_table
from charm_rm.data.formats import READERS
from charm_rm.data.tables import DataError, nearest_names, read_table


@dataclass(frozen=True)
class NamedElo:
    """An Elo table under the names that its user has for the models.

    Attributes:
        table: A row per name that was found, in the order asked for.
        matched: Name asked for -> name in the original table.
        unmatched: Name without a rating -> why, or which rated names are nearest.
    """

    table: EloTable
    matched: dict[str, str]
    unmatched: dict[str, str]


def normalise_name(name: str) -> str:
    """A model's name without what people write differently: owner, case and separators.

    Dots and plus signs stay, as they tell models apart (Command R and Command R+).

    Args:
        name: Such as a hub id.

    Returns:
        Lower-case letters, digits, dots and plus signs.

    Example:
        >>> normalise_name("mistralai/Mistral-7B-Instruct-v0.2"), normalise_name("gpt4_0613")
        ('mistral7binstructv0.2', 'gpt40613')
    """
    return re.sub(r"[^a-z0-9.+]", "", name.rsplit("/", 1)[-1].lower())


def name_models(table: EloTable, names: Iterable[str]) -> NamedElo:
    """The ratings of the named models, under these names.

    Args:
        table: Ratings under the Arena's keys or display names.
        names: Names of AlpacaEval, of a model hub, or the Arena's own.

    Returns:
        The table for these names, and what became of each.

    Raises:
        DataError: If no name is found.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> found = name_models(read_elo("table7"), ["openai/GPT-4-0613", "gpt4_0613_verbose"])
        >>> found.matched
        {'openai/GPT-4-0613': 'gpt4_0613'}
        >>> found.unmatched
        {'gpt4_0613_verbose': 'nearest: gpt4_0613, gpt4_1106_preview, gpt4_0314'}
    """
    keys = {normalise_name(name): key for name, (key, _) in _aliases().items()}
    rated = defaultdict(list)
    for model in table.models:
        rated[keys.get(normalise_name(model)) or normalise_name(model)].append(model)
    matched, unmatched = {}, {}
    for name in dict.fromkeys(names):
        known = rated.get(keys.get(normalise_name(name), normalise_name(name)), [])
        exact = [model for model in known if model == name] or known
        if len(exact) == 1:
            matched[name] = exact[0]
        else:
            unmatched[name] = _reason(name, exact, models=table.models)
    if not matched:
        asked = "; ".join(f"{name!r} ({why})" for name, why in list(unmatched.items())[:4])
        raise DataError(f"{table.name}: none of the names is rated: {asked or 'none given'}")
    order = pl.DataFrame({"model": list(matched.values()), "name": list(matched)})
    frame = order.join(table.frame, on="model", how="left", maintain_order="left")
    frame = frame.with_columns(model="name").drop("name")
    return NamedElo(elo_table(frame, name=table.name), matched, unmatched)


def read_names(text: str) -> list[str]:
    r"""Names of models from a file or a comma-separated list.

    Args:
        text: A table with a column ``policy`` or ``model`` (scores, responses, an Elo table), a
            text file with one name per line, or the names themselves.

    Returns:
        The names, each once, in their order.

    Raises:
        DataError: If the file can't be read or has no such column, or there are no names.

    Example:
        >>> read_names("gpt4_0613, vicuna-7b")
        ['gpt4_0613', 'vicuna-7b']
    """
    path = Path(text)
    there = _is_there(path)
    if path.suffix.lower() in READERS or (there and path.is_dir()):
        frame = read_table(text)
        column = next((c for c in ("policy", "generator", "model") if c in frame.columns), None)
        if column is None:
            raise DataError(
                f"{text}: no column 'policy' or 'model'; it has {', '.join(frame.columns)}"
            )
        found = frame[column].drop_nulls().cast(pl.String).to_list()
    elif there:
        try:
            found = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{text}: not a readable text ({error}); check the file") from error
    else:
        found = text.split(",")
    names = [name for name in dict.fromkeys(name.strip() for name in found) if name]
    if not names:
        raise DataError(f"{text!r}: no names; give a file or a comma-separated list")
    return names


def _is_there(path: Path) -> bool:
    """Whether there is such a file; a list of names can be too long for the name of one."""
    try:
        return path.exists()
    except OSError:
        return False


def _reason(name: str, found: list[str], *, models: list[str]) -> str:
    if len(found) > 1:
        return f"could be any of: {', '.join(found)}"
    for alias, (key, source) in _aliases().items():
        if not key and normalise_name(alias) == normalise_name(name):
            return source
    begin = [m for m in models if normalise_name(m).startswith(normalise_name(name))]
    near = begin[:3] or nearest_names(name, models)
    return f"nearest: {', '.join(near)}" if near else "no rated name is near"


@cache
def _aliases() -> dict[str, tuple[str, str]]:
    """Name -> (normalised Arena key, source); the key is empty where there is none to be had."""
    text = (files("charm_rm.data") / "snapshots" / ALIASES).read_bytes()
    rows = pl.read_csv(text, schema=dict.fromkeys(("name", "arena_key", "source"), pl.String))
    return {name: (normalise_name(key or ""), source) for name, key, source in rows.iter_rows()}
