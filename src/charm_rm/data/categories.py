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

from charm_rm.data.prompts import as_messages, prompt_digest
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


@dataclass(frozen=True)
class _KnownPrompt:
    """What another table says of a prompt: its text, and its category if it has one."""

    text: str
    category: str | None


def read_prompt_table(
    paths: Iterable[str | Path], *, prompts: Iterable[str | Path] = ()
) -> PromptTable:
    r"""One table from any number of files that hold prompts, whatever else they hold.

    Args:
        paths: Files that `charm_rm.data.tables.read_table` reads, with the same columns, one of
            them ``prompt``, ``instruction`` or ``messages``: strings, or lists of messages.
        prompts: Files of the same kind that hold the prompts of ``paths``, such as the responses
            behind a table of scores; joined on ``prompt_id``. Categories there are taken over.

    Returns:
        The rows of all files, in their order.

    Raises:
        DataError: If a file can't be read or holds no rows, has no prompts or a malformed one,
            the files' columns differ, ``category`` is no text, or a prompt is not in ``prompts``.

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
    known = _known_prompts(str(path) for path in prompts)
    frames = [_read_one(name, known) for name in names]
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
        for text in _texts_of(frame, known, where=name)
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
            raise not_found("category", category, names=CATEGORIES, where="the six classes")


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


def _read_one(name: str, known: dict[str, _KnownPrompt]) -> pl.DataFrame:
    frame = _with_category(read_table(name), where=name)
    if known:
        return _joined(frame, known, where=name)
    if not _prompt_column(frame):
        raise DataError(
            f"{name}: no column of prompts ({', '.join(map(repr, PROMPT_COLUMNS))}), it has "
            f"{', '.join(frame.drop('category').columns)}; name the table that has them with "
            "--prompts, or give prompts or responses (charm score keeps their category)"
        )
    return frame


def _with_category(frame: pl.DataFrame, *, where: str) -> pl.DataFrame:
    """The table with a column ``category`` of strings, null where there is none."""
    if frame.is_empty():
        raise DataError(f"{where}: no rows; give a file with prompts")
    if "category" not in frame.columns:
        return frame.with_columns(pl.lit(None, dtype=pl.String).alias("category"))
    kind = frame.schema["category"]
    if kind not in (pl.String, pl.Null) and not isinstance(kind, pl.Categorical | pl.Enum):
        raise DataError(f"{where}: column 'category' is {kind}, not text; rename or drop it")
    return frame.with_columns(pl.col("category").cast(pl.String))


def _known_prompts(names: Iterable[str]) -> dict[str, _KnownPrompt]:
    """Prompts by their id: the one that came with them, else their digest."""
    known: dict[str, _KnownPrompt] = {}
    for name in names:
        frame = _with_category(read_table(name), where=name)
        column = _prompt_column(frame)
        if column is None:
            raise DataError(f"{name}: no column of prompts; give prompts or responses to --prompts")
        texts = _texts_of(frame, {}, where=name)
        ids = (
            frame["prompt_id"].cast(pl.String)
            if "prompt_id" in frame.columns
            else (prompt_digest(as_messages(_listed(prompt))) for prompt in frame[column])
        )
        for one, text, category in zip(ids, texts, frame["category"], strict=True):
            before = known.setdefault(one, _KnownPrompt(text, category))
            if before.text != text:
                raise DataError(f"{name}: prompt_id {one!r} stands for two prompts; keep one")
    return known


def _joined(frame: pl.DataFrame, known: dict[str, _KnownPrompt], *, where: str) -> pl.DataFrame:
    """The table with the categories that the prompts have, where it has none of its own."""
    if "prompt_id" not in frame.columns:
        raise DataError(f"{where}: no column 'prompt_id' to find its prompts by; add it")
    ids = frame["prompt_id"].cast(pl.String)
    strange = sorted({str(one) for one in ids if one not in known})
    if strange:
        raise DataError(
            f"{where}: prompt {strange[0]!r} is not among those of --prompts ({len(strange)} are "
            "missing); give the table that the scores were made from"
        )
    theirs = pl.Series([known[one].category for one in ids], dtype=pl.String)
    own = pl.col("category").str.strip_chars() != ""
    return frame.with_columns(pl.when(own).then("category").otherwise(theirs).alias("category"))


def _prompt_column(frame: pl.DataFrame) -> str | None:
    return next((name for name in PROMPT_COLUMNS if name in frame.columns), None)


def _listed(prompt: Any) -> Any:
    return prompt.to_list() if isinstance(prompt, pl.Series) else prompt


def _texts_of(frame: pl.DataFrame, others: dict[str, _KnownPrompt], *, where: str) -> list[str]:
    """The user's text of each row; prompts that repeat (one row per policy) are parsed once."""
    if others:
        return [others[one].text for one in frame["prompt_id"].cast(pl.String)]
    column = _prompt_column(frame)
    known: dict[str, str] = {}
    texts = []
    for row, prompt in enumerate(frame[str(column)]):
        listed = _listed(prompt)
        key = repr(listed)
        if key not in known:
            try:
                known[key] = user_text(listed)
            except DataError as error:
                raise DataError(f"{where}: row {row + 1}: {error}") from error
        texts.append(known[key])
    return texts
