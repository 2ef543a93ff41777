"""Prompts that a benchmark holds too: what was trained on can't be tested with.

Two texts are the same if they are equal after lower-casing and with every run of characters that
are neither letters nor digits read as one blank; and one holds part of the other if they share a
run of 13 words, the rule of Brown et al., "Language Models are Few-Shot Learners",
arXiv:2005.14165, appendix C.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

N_WORDS = 13
EQUAL = "equal to a benchmark's prompt"
SHARES_WORDS = f"shares {N_WORDS} words in a row with a benchmark's prompt"
_WORD = re.compile(r"\w+")


def find_contaminated(texts: Sequence[str], benchmark: Iterable[str]) -> list[str | None]:
    """Which texts are in a benchmark, and in what sense.

    Args:
        texts: Prompts to train on, as one text each.
        benchmark: Prompts of benchmarks.

    Returns:
        For each text ``EQUAL``, ``SHARES_WORDS``, or None where it is in no benchmark. Texts of
        fewer than 13 words are compared whole alone.

    Example:
        >>> find_contaminated(["Who was  ADA Lovelace?", "Hi"], ["Who was Ada Lovelace"])
        ["equal to a benchmark's prompt", None]
    """
    whole: set[tuple[str, ...]] = set()
    runs: set[tuple[str, ...]] = set()
    for text in benchmark:
        words = _words(text)
        whole.add(tuple(words))
        runs.update(_runs(words))
    found: list[str | None] = []
    for text in texts:
        words = _words(text)
        if tuple(words) in whole:
            found.append(EQUAL)
        else:
            found.append(None if runs.isdisjoint(_runs(words)) else SHARES_WORDS)
    return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + N_WORDS]) for at in range(len(words) - N_WORDS + 1))
