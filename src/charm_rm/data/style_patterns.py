r"""Style patterns: names and regular expressions, and how often each occurs in texts.

The patterns are the rows of ``style_patterns.csv``; a user's file adds rows, or takes
the place of rows of the same name. Expressions are those of Rust's ``regex``, the engine inside
polars: Unicode classes such as ``\p{Emoji}``, no backtracking, hence no look-around. Whether a
text holds a pattern is known in time linear in its length, for any expression.

Markdown is counted as Chatbot Arena's style control counts it: code blocks are removed first.
Refusals are those of `charm_rm.data.response_check.refusal_pattern`, which no single expression
could say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import polars as pl

from charm_rm.data.response_check import refusal_pattern
from charm_rm.data.tables import DataError, not_found, read_table, require_columns

CODE_BLOCK = r"(?s)```.*?(?:```|\z)"  # one that was cut off reaches to the end
REFUSAL = "refusal_opener"
LENGTH = "length"
SHIPPED = "style_patterns.csv"
IN_CODE = {"skip": False, "count": True}  # what the column code_blocks may say


@dataclass(frozen=True)
class StylePattern:
    """One pattern of style.

    Attributes:
        name: What it is called in tables.
        regex: Rust's ``regex`` syntax; None for the rule of refusals.
        in_code: Whether it is looked for inside code blocks as well.
    """

    name: str
    regex: str | None
    in_code: bool


def read_patterns(path: str | Path | None = None) -> tuple[StylePattern, ...]:
    r"""The patterns that come with the package, with the changes of a user's file.

    Args:
        path: Table with columns ``name, pattern`` and perhaps ``code_blocks`` (``skip``, which is
            the default, or ``count``). A row with a known name takes that pattern's place, an
            empty pattern leaves it out, any other row is added. By default none.

    Returns:
        The patterns, those of the package first, in the order of the files.

    Raises:
        DataError: If the file can't be read, lacks a column, or a row has no name, a name for the
            second time, an expression that is invalid or that the empty text matches, or names a
            pattern to leave out that is not there.

    Example:
        >>> [pattern.name for pattern in read_patterns()][:4]
        ['emoji', 'bold', 'exclamation', 'list']
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "mine.csv"
        >>> _ = path.write_text("name,pattern\ndash,—\nemoji,\n")
        >>> names = [pattern.name for pattern in read_patterns(path)]
        >>> names[0], names[-1]
        ('bold', 'dash')
        >>> folder.cleanup()
    """
    shipped = pl.read_csv((files("charm_rm.data") / SHIPPED).read_bytes())
    found = {
        name: StylePattern(name, regex, IN_CODE[code]) for name, regex, code in shipped.iter_rows()
    }
    found[REFUSAL] = StylePattern(REFUSAL, None, in_code=True)
    if path is not None:
        _change(found, read_table(path), where=str(path))
    if not found:
        raise DataError(f"{path}: leaves out every pattern; keep at least one")
    return tuple(found.values())


def _change(found: dict[str, StylePattern], table: pl.DataFrame, *, where: str) -> None:
    """Patterns with those of a user's file added, replaced and left out."""
    require_columns(table, ("name", "pattern"), where=where)
    columns = ["name", "pattern", *({"code_blocks"} & set(table.columns))]
    plain = table.select(pl.col(column).cast(pl.String) for column in columns)
    seen: set[str] = set()
    for row, values in enumerate(plain.iter_rows(named=True)):
        place = f"{where}:{row + 2}" if where.endswith(".csv") else f"{where}: row {row + 1}"
        name = (values["name"] or "").strip()
        if not name or name in seen or name == LENGTH:
            raise DataError(
                f"{place}: name is {values['name']!r}; every pattern needs a name of its own, "
                f"other than {LENGTH!r}"
            )
        seen.add(name)
        code = values.get("code_blocks") or "skip"
        if code not in IN_CODE:
            raise DataError(f"{place}: code_blocks is {code!r}; it must be skip or count")
        if values["pattern"]:
            _check_regex(values["pattern"], where=place)
            found[name] = StylePattern(name, values["pattern"], IN_CODE[code])
        elif found.pop(name, None) is None:
            raise not_found("pattern", name, names=list(found), where=place)


def _check_regex(regex: str, *, where: str) -> None:
    try:
        matches_nothing = bool(pl.Series([""]).str.contains(regex)[0])
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{where}: {regex!r} is no expression of Rust's regex ({reason}); mend it"
        ) from error
    if matches_nothing:
        raise DataError(f"{where}: {regex!r} matches the empty text, so every response; narrow it")


def count_patterns(
    texts: pl.Series, patterns: Sequence[StylePattern] | None = None
) -> pl.DataFrame:
    r"""How often each pattern occurs in each text, and how long the text is.

    Args:
        texts: Responses; null stays null.
        patterns: By default those of the package.

    Returns:
        Integers, one row per text: ``length`` in characters (Unicode code points, code blocks
        included), and a column by the name of each pattern; ``refusal_opener`` is 0 or 1.

    Example:
        >>> counts = count_patterns(pl.Series(["**Hi** 👍🏽!", "```\n# no\n```\n# yes"]))
        >>> counts.select("length", "emoji", "bold", "exclamation", "header").rows()
        [(10, 1, 1, 1, 0), (18, 0, 0, 0, 1)]
    """
    wanted = read_patterns() if patterns is None else patterns
    text = pl.col("text")
    prose = pl.DataFrame({"text": texts}).with_columns(prose=text.str.replace_all(CODE_BLOCK, ""))
    columns = [text.str.len_chars().alias(LENGTH)]
    for pattern in wanted:
        if pattern.regex is None:
            columns.append(pl.lit(_refusals(texts)).alias(pattern.name))
        else:
            source = text if pattern.in_code else pl.col("prose")
            columns.append(source.str.count_matches(pattern.regex).alias(pattern.name))
    return prose.select(column.cast(pl.Int64) for column in columns)


def _refusals(texts: Iterable[str | None]) -> pl.Series:
    found = [None if text is None else refusal_pattern(text) is not None for text in texts]
    return pl.Series(found, dtype=pl.Boolean)
