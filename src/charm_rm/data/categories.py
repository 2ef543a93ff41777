"""Categories of prompts: the six classes of the paper's section 6.2, and tables that carry them.

The paper names the classes and does not define them, so `RULES` does. The rules are read from top
to bottom, the first that fits decides, and a request that means harm is `OTHERS` whatever it asks
for. People label by them, and an endpoint is given them word for word.

This module decides on no prompt's class; it finds the prompts of a table and writes the classes
back, and it leaves every other column as it was.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl

from charm_rm.data.prompts import as_messages
from charm_rm.data.tables import DataError, not_found, read_table

MATH_REASONING = "Math/Reasoning"
CREATIVE_WRITING = "Creative Writing"
CODE_GENERATION = "Code Generation"
FACTUAL_QA = "Factual QA"
INSTRUCTION_FOLLOWING = "Instruction Following"
OTHERS = "Others"
CATEGORIES = (
    MATH_REASONING,
    CREATIVE_WRITING,
    CODE_GENERATION,
    FACTUAL_QA,
    INSTRUCTION_FOLLOWING,
    OTHERS,
)
HARM_RULE = f"A request that means harm, insults people or invades privacy is {OTHERS}."
RULES = MappingProxyType(
    {
        CODE_GENERATION: "program code, a query, a formula, a command, markup or a configuration "
        "is to be written, explained or mended",
        MATH_REASONING: "the answer must be worked out, step by step, from numbers or premises: "
        "calculation, proof, logic, puzzle, estimate",
        INSTRUCTION_FOLLOWING: "the prompt brings the text, list or data to work on (rewrite, "
        "translate, summarise, classify, extract), or the fixed form of the answer is the task",
        CREATIVE_WRITING: "a text, name or role is to be invented: story, poem, dialogue, essay, "
        "letter, advert, title, role-play",
        FACTUAL_QA: "the answer rests on knowledge: facts, definitions, explanations, "
        "comparisons, recipes, how something is done",
        OTHERS: "the rest: advice and recommendations for someone's own case, plans, opinions, "
        "speculation, small talk",
    }
)
PROMPT_COLUMNS = ("prompt", "instruction", "messages")  # the first that a table has is read


@dataclass(frozen=True)
class PromptTable:
    """A table with prompts, and which of its rows are to get a category.

    Attributes:
        frame: The rows as they stand in the files, with a column ``category`` of strings.
        texts: What the user asks for, a string per row.
        missing: Rows without a category, shape (n_rows,).
    """

    frame: pl.DataFrame
    texts: tuple[str, ...]
    missing: pl.Series


def read_prompt_table(paths: Iterable[str | Path]) -> PromptTable:
    r"""One table from any number of files that hold prompts, whatever else they hold.

    Args:
        paths: Files that `charm_rm.data.tables.read_table` reads, with the same columns, one of
            them ``prompt``, ``instruction`` or ``messages``: strings, or lists of messages.

    Returns:
        The rows of all files, in their order.

    Raises:
        DataError: If a file can't be read or holds no rows, has no prompts or a malformed one,
            the files' columns differ, or ``category`` is no text.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "prompts.csv"
        >>> _ = path.write_text("prompt,category\nWho was Ada?,\nAdd 2 and 3.,Math/Reasoning\n")
        >>> table = read_prompt_table([path])
        >>> table.texts[0], table.missing.to_list()
        ('Who was Ada?', [True, False])
        >>> folder.cleanup()
    """
    names = [str(path) for path in paths]
    if not names:
        raise DataError("no tables given; name at least one file with prompts")
    frames = [_read_one(name) for name in names]
    for name, frame in zip(names, frames, strict=True):
        odd = set(frame.columns) ^ set(frames[0].columns)
        if odd:
            raise DataError(
                f"{name}: other columns than {names[0]} ({', '.join(sorted(odd))}); "
                "give tables of one kind at a time"
            )
    texts = [
        text
        for name, frame in zip(names, frames, strict=True)
        for text in _texts_of(frame, where=name)
    ]
    try:
        frame = pl.concat([one.select(frames[0].columns) for one in frames], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"tables of different types ({reason}); give them one at a time") from error
    blank = frame["category"].str.strip_chars().fill_null("") == ""
    return PromptTable(frame=frame, texts=tuple(texts), missing=blank.rename("missing"))


def check_categories(categories: Iterable[str]) -> None:
    """Names that are among the six classes, or one line that names the first that is not.

    Args:
        categories: Names, as a classifier or an endpoint gives them.

    Raises:
        DataError: If a name is not one of ``CATEGORIES``.

    Example:
        >>> check_categories(["Factual QA", "Others"])
    """
    for category in categories:
        if category not in CATEGORIES:
            raise not_found("category", category, CATEGORIES, where="the six classes")


def user_text(prompt: str | Sequence[dict[str, Any]]) -> str:
    """What the user asks for: all user turns of a prompt, or all turns where none is a user's.

    Args:
        prompt: A string, or messages with ``role`` and ``content``.

    Returns:
        The turns, with a blank line between them.

    Raises:
        DataError: If the prompt is malformed.

    Example:
        >>> user_text([{"role": "system", "content": "Be brief."}, *as_messages("Hi")])
        'Hi'
    """
    messages = as_messages(prompt)
    own = [message["content"] for message in messages if message["role"] == "user"]
    return "\n\n".join(own or [message["content"] for message in messages])


def _read_one(name: str) -> pl.DataFrame:
    frame = read_table(name)
    if frame.is_empty():
        raise DataError(f"{name}: no rows; give a file with prompts")
    if not any(column in frame.columns for column in PROMPT_COLUMNS):
        raise DataError(
            f"{name}: no column of prompts ({', '.join(map(repr, PROMPT_COLUMNS))}), it has "
            f"{', '.join(frame.columns)}; give prompts or responses (charm score keeps the "
            "category of responses)"
        )
    if "category" not in frame.columns:
        return frame.with_columns(pl.lit(None, dtype=pl.String).alias("category"))
    kind = frame.schema["category"]
    if kind not in (pl.String, pl.Null) and not isinstance(kind, pl.Categorical | pl.Enum):
        raise DataError(f"{name}: column 'category' is {kind}, not text; rename or drop it")
    return frame.with_columns(pl.col("category").cast(pl.String))


def _texts_of(frame: pl.DataFrame, *, where: str) -> list[str]:
    """The user's text of each row; prompts that repeat (one row per policy) are parsed once."""
    column = next(name for name in PROMPT_COLUMNS if name in frame.columns)
    known: dict[str, str] = {}
    texts = []
    for row, prompt in enumerate(frame[column]):
        listed = prompt.to_list() if isinstance(prompt, pl.Series) else prompt
        key = repr(listed)
        if key not in known:
            try:
                known[key] = user_text(listed)
            except DataError as error:
                raise DataError(f"{where}: row {row + 1}: {error}") from error
        texts.append(known[key])
    return texts
