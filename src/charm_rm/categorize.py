"""Categories for the prompts of a table, offline: a linear classifier of a few hundred kilobytes.

A prompt is read three ways: its words and pairs of words, the pieces of its words (3 to 5 letters,
so that other forms and scripts count), and its opening words, where the task mostly stands. Each
is a TF-IDF vector of unit length over hashed terms; multinomial logistic regression adds them up.
A second table gives 20,000 words a weight even where training never saw them: it was fitted on
the input embeddings of a small language model and then multiplied out, so no model is needed here.

How often it is right: on 113 of 150 held-out prompts (0.753, 95% interval 0.679 to 0.815; macro-F1
0.757): 52 of 75 AlpacaEval instructions, 61 of 75 from mixed sources. They were labelled by one
reader, a language model, by the written `RULES`, before they were scored, once; agreement with a
second reader was not measured. Code (F1 0.85) and Creative Writing (0.81) are told well; Factual QA
(0.73) and Others (0.66) are taken for each other most. `recipes/category_classifier.py` trains
it and prints these numbers. Where they are not enough, `charm_rm.models.endpoint_categories` asks
a model; `fill_categories` takes either.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import compress, pairwise
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from charm_rm.data.categories import CATEGORIES, PromptTable, check_categories

N_BUCKETS = 1 << 16  # of hashed terms
READ_CHARACTERS = 2000  # half from the start of a prompt, half from its end
N_OPENING = 12  # words
PIECE_LENGTHS = (3, 4, 5)
AT_ONCE = 512  # prompts; bounds the memory of their terms
SNAPSHOT = "category_classifier.npz"
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")
Floats = NDArray[np.float64]
Categorizer = Callable[[Sequence[str]], Sequence[str | None]]


@dataclass(frozen=True)
class CategoryClassifier:
    """A fitted classifier; call it with prompts, get one of the six classes for each.

    Attributes:
        idf: Inverse document frequency of hashed terms, 0 where unseen, shape (n_buckets,).
        weights: Log-odds per unit of a hashed term, shape (n_buckets, 6).
        words: CRC-32 of the words that have a meaning weight, ascending, shape (n_words,).
        word_idf: Their inverse document frequency, shape (n_words,).
        meaning: Log-odds per share of a word in the prompt, and in its opening, shape
            (2, n_words, 6).
        intercept: Log-odds of each class before any term, shape (6,).
    """

    idf: Floats
    weights: Floats
    words: NDArray[np.uint32]
    word_idf: Floats
    meaning: Floats
    intercept: Floats

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The most probable class of each text; of equals, the first in ``CATEGORIES``."""
        if not texts:
            return []
        return [CATEGORIES[best] for best in self.log_odds(texts).argmax(axis=1)]

    def log_odds(self, texts: Sequence[str]) -> Floats:
        """Log-odds of the classes up to a constant per text, shape (n_texts, 6)."""
        chunks = [texts[at : at + AT_ONCE] for at in range(0, len(texts), AT_ONCE)]
        return np.concatenate([self._log_odds_of(chunk) for chunk in chunks])

    def _log_odds_of(self, texts: Sequence[str]) -> Floats:
        whole, opening = word_shares(texts, self.words, self.word_idf)
        hashed: Floats = hashed_terms(texts, self.idf) @ self.weights
        meant: Floats = whole @ self.meaning[0] + opening @ self.meaning[1]
        return hashed + meant + self.intercept


@dataclass(frozen=True)
class FilledTable:
    """A table whose categories were filled.

    Attributes:
        frame: The rows, in the order in which they came.
        n_filled: Rows that got a category.
        n_kept: Rows whose category was there before and stayed.
        n_left: Rows still without one, because the categorizer gave none.
        counts: Rows per category, the six classes first.
        prompt_counts: Distinct prompts per category.
    """

    frame: pl.DataFrame
    n_filled: int
    n_kept: int
    n_left: int
    counts: dict[str, int]
    prompt_counts: dict[str, int]


def fill_categories(
    table: PromptTable, categorize: Categorizer | None = None, *, overwrite: bool = False
) -> FilledTable:
    """A category for every prompt that has none.

    Args:
        table: As `charm_rm.data.categories.read_prompt_table` returns it.
        categorize: Gives each of distinct texts one of the six classes, or None where it can't
            tell; by default the classifier that comes with the package.
        overwrite: Whether categories that are there are replaced as well.

    Returns:
        The filled table.

    Raises:
        DataError: If the categorizer gives a name that is none of the six classes.
        ValueError: If it gives more or fewer categories than texts.

    Example:
        >>> frame = pl.DataFrame({"category": [None, "Others"]}, schema={"category": pl.String})
        >>> texts = ("Write a Python function that reverses a list.", "Hi")
        >>> table = PromptTable(frame=frame, texts=texts, missing=frame["category"].is_null())
        >>> fill_categories(table).frame["category"].to_list()
        ['Code Generation', 'Others']
    """
    wanted = [True] * len(table.texts) if overwrite else table.missing.to_list()
    texts = list(dict.fromkeys(compress(table.texts, wanted)))
    given = (categorize or load_classifier())(texts)
    found = dict(zip(texts, given, strict=True))
    check_categories(category for category in given if category is not None)
    before = [
        None if missing else category
        for category, missing in zip(table.frame["category"], table.missing, strict=True)
    ]
    after = [
        (found[text] or old) if want else old
        for text, old, want in zip(table.texts, before, wanted, strict=True)
    ]
    n_filled = sum(found.get(text) is not None for text in compress(table.texts, wanted))
    n_left = after.count(None)
    by_prompt = dict(zip(table.texts, after, strict=True))
    return FilledTable(
        frame=table.frame.with_columns(pl.Series("category", after, dtype=pl.String)),
        n_filled=n_filled,
        n_kept=len(after) - n_filled - n_left,
        n_left=n_left,
        counts=_count(after),
        prompt_counts=_count(list(by_prompt.values())),
    )


def _count(categories: Sequence[str | None]) -> dict[str, int]:
    counts = Counter(categories)
    own = sorted(name for name in counts if name is not None and name not in CATEGORIES)
    return {name: counts[name] for name in [*CATEGORIES, *own]}


@lru_cache(maxsize=1)
def load_classifier() -> CategoryClassifier:
    """The classifier that comes with the package.

    Returns:
        The classifier, read once per process.

    Example:
        >>> load_classifier()(["Write a poem about rain.", "What is the capital of France?"])
        ['Creative Writing', 'Factual QA']
    """
    path = files("charm_rm.data") / "snapshots" / SNAPSHOT
    return unpack_classifier(path.read_bytes())


def unpack_classifier(content: bytes) -> CategoryClassifier:
    """A classifier from the bytes of an ``.npz`` archive; pickled arrays are refused.

    Args:
        content: What `pack_classifier` returned.

    Returns:
        The classifier, in double precision.

    Example:
        >>> classifier = load_classifier()
        >>> again = unpack_classifier(pack_classifier(classifier))
        >>> bool(abs(again.weights - classifier.weights).max() < 1e-6)
        True
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    return CategoryClassifier(
        idf=stored["idf"] * np.float64(stored["idf_step"]),
        weights=stored["weights"] * stored["weights_step"].astype(np.float64),
        words=stored["words"],
        word_idf=stored["word_idf"] * np.float64(stored["word_idf_step"]),
        meaning=stored["meaning"] * stored["meaning_step"].astype(np.float64),
        intercept=stored["intercept"].astype(np.float64),
    )


def pack_classifier(classifier: CategoryClassifier) -> bytes:
    """A classifier as a compressed ``.npz`` archive, weights in 8 bits.

    Args:
        classifier: The classifier.

    Returns:
        Bytes that `unpack_classifier` reads; the weights lose what 1/127 of the largest of their
        class does not tell.

    Example:
        >>> len(pack_classifier(load_classifier())) < 1_000_000
        True
    """
    arrays: dict[str, Any] = {"words": classifier.words, "intercept": classifier.intercept}
    for name, kind in (("idf", np.uint8), ("word_idf", np.uint8)):
        values = getattr(classifier, name)
        step = max(values.max(), 1e-12) / np.iinfo(kind).max
        arrays |= {name: np.rint(values / step).astype(kind), f"{name}_step": step}
    for name in ("weights", "meaning"):
        values = getattr(classifier, name)
        reduced = tuple(range(values.ndim - 1))
        steps = np.maximum(np.abs(values).max(axis=reduced), 1e-12) / 127
        arrays |= {name: np.rint(values / steps).astype(np.int8), f"{name}_step": steps}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def hashed_terms(texts: Sequence[str], idf: Floats | None = None) -> csr_array:
    """TF-IDF of hashed words, pieces of words and opening words, each of unit length, summed.

    Args:
        texts: Prompts.
        idf: Inverse document frequency per bucket, shape (n_buckets,); by default every term
            weighs the same.

    Returns:
        Sparse, shape (n_texts, n_buckets).

    Example:
        >>> row = hashed_terms(["Tell me of Ada Lovelace"])
        >>> row.shape, bool(row.min() >= 0)
        ((1, 65536), True)
    """
    words = [tokenize(text) for text in texts]
    idf = np.ones(N_BUCKETS) if idf is None else idf
    total = csr_array((len(texts), N_BUCKETS))
    for terms in (_word_terms, _piece_terms, _opening_terms):
        buckets = [
            [crc32(t.encode("utf-8", "surrogatepass")) % N_BUCKETS for t in terms(w)] for w in words
        ]
        block = _counts(buckets, N_BUCKETS, idf)
        lengths = np.sqrt(block.power(2).sum(axis=1))
        total = total + _scale_rows(block, lengths)
    return total


def word_shares(
    texts: Sequence[str], words: NDArray[np.uint32], idf: Floats
) -> tuple[csr_array, csr_array]:
    """Share of each known word in a prompt and in its opening, by TF-IDF.

    Args:
        texts: Prompts.
        words: CRC-32 of the known words, ascending, shape (n_words,).
        idf: Their inverse document frequency, shape (n_words,).

    Returns:
        Two sparse matrices, shape (n_texts, n_words); a row sums to 1, or to 0 where no word is
        known.

    Example:
        >>> known = np.array([crc32(b"ada")], dtype=np.uint32)
        >>> whole, opening = word_shares(["Tell me of Ada"], known, np.ones(1))
        >>> whole.toarray().tolist()
        [[1.0]]
    """
    rows = [[crc32(w.encode("utf-8", "surrogatepass")) for w in tokenize(text)] for text in texts]
    shares = []
    for length in (None, N_OPENING):
        block = _counts([_positions(row[:length], words) for row in rows], len(words), idf)
        shares.append(_scale_rows(block, block.sum(axis=1)))
    return shares[0], shares[1]


def tokenize(text: str) -> list[str]:
    """Lower-case words and marks of both ends of a text, every digit as 0.

    Args:
        text: A prompt; of a long one the first and the last 1,000 characters are read.

    Returns:
        The words, in their order.

    Example:
        >>> tokenize("Solve 3x = 12!")
        ['solve', '0x', '=', '00', '!']
    """
    half = READ_CHARACTERS // 2
    cut = text if len(text) <= READ_CHARACTERS else f"{text[:half]} {text[-half:]}"
    return _WORD.findall(_DIGIT.sub("0", cut.lower()))


def _word_terms(words: list[str]) -> list[str]:
    pairs = [f"w:{one} {two}" for one, two in pairwise(words)]
    return [f"w:{word}" for word in words] + pairs


def _piece_terms(words: list[str]) -> list[str]:
    padded = [f" {word} " for word in words if word[0].isalnum() or word[0] == "_"]
    return [
        f"p:{word[at : at + length]}"
        for word in padded
        for length in PIECE_LENGTHS
        for at in range(len(word) - length + 1)
    ]


def _opening_terms(words: list[str]) -> list[str]:
    first = words[:N_OPENING]
    pairs = [f"o:{one} {two}" for one, two in pairwise(["", *first])]
    return [f"o:{word}" for word in first] + pairs + [f"o:{' '.join(first[:n])}" for n in (3, 4)]


def _positions(hashes: list[int], words: NDArray[np.uint32]) -> list[int]:
    """Places in ``words`` of those that are there."""
    wanted = np.array(hashes, dtype=np.uint32)
    places = np.minimum(np.searchsorted(words, wanted), len(words) - 1)
    return [int(place) for place in places[words[places] == wanted]]


def _counts(rows: list[list[int]], n_columns: int, idf: Floats) -> csr_array:
    """(1 + log count) * idf of the column numbers in each row."""
    starts = np.cumsum([0, *map(len, rows)])
    columns = np.array([column for row in rows for column in row], dtype=np.int64)
    block = csr_array((np.ones(len(columns)), columns, starts), shape=(len(rows), n_columns))
    block.sum_duplicates()
    block.data = (1 + np.log(block.data)) * idf[block.indices]
    return block


def _scale_rows(block: csr_array, totals: Floats) -> csr_array:
    """Rows divided by their totals; a row without terms stays 0."""
    factors = np.divide(1, totals, out=np.zeros(len(totals)), where=totals > 0)
    block.data = block.data * np.repeat(factors, np.diff(block.indptr))
    return block
