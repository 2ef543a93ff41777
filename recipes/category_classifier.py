"""The offline classifier of prompt categories: trained, measured and written.

It learns from prompts whose source states the class (GSM8K is Math/Reasoning, HumanEval is Code
Generation, Arena-Hard v2.0 says coding, math or creative writing), from prompts of others that one
reader labelled (`category_labels_train.csv`, ids alone), and from everyday prompts written for it
(`category_prompts.csv`). The reader, who wrote those too, is a language model that follows the
rules of `charm_rm.data.categories`; how far a second reader would agree was not measured.

Two samples are kept out of training, with all prompts that nearly repeat one of theirs:

* `category_labels_development.csv`, 240 prompts: the first of each source in the order of their
  ids, half AlpacaEval instructions, half from the mixed sources. Of long ones 500 characters, from
  their ends, were read. It was scored several times and guided the work: it measures little now.
* `category_labels_fresh.csv`, 150 prompts by `draw_sample`: in the order of the SHA-256 of "fresh "
  and the id, the same mix. All were read in full (up to 3,000 characters) and labelled after the
  training was final, and scored once. Many of them had been training prompts of an earlier version,
  whose cross-validation chose some of the settings; the present weights never saw them.

Neither has GSM8K or HumanEval prompts: they are too easy. Training labels are rougher: most were
given from about 100 characters of a prompt; where cross-validation disagreed, up to 900 were
read (not of HH-RLHF's). Settings come from five-fold cross-validation on the training prompts.

| source of training prompts | licence |
|---|---|
| GSM8K, HumanEval, HH-RLHF (harmless, first turns) | MIT |
| Arena-Hard v0.1 and v2.0, MT-Bench, self-instruct's seed tasks | Apache-2.0 |
| awesome-chatgpt-prompts | CC0-1.0 |
| LLMFAO | CC BY 4.0 (dustalov/llmfao) |
| AlpacaEval's parts from self-instruct, Open Assistant and Vicuna; from HH-RLHF (helpful) | \
Apache-2.0; MIT at their origin. AlpacaEval declares its collection CC BY-NC 4.0 |
| `category_prompts.csv` | that of this repository |
| input embeddings of SmolLM2-135M-Instruct | Apache-2.0 |

AlpacaEval's Koala part, of no licence known to us, is in the samples alone. The texts of others are
not in this repository; the classifier holds weights of hashed terms. That AlpacaEval took over its
parts unchanged was not checked.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack
from scipy.special import log_softmax

from charm_rm.categorize import (
    N_BUCKETS,
    CategoryClassifier,
    Floats,
    hashed_terms,
    pack_classifier,
    tokenize,
    unpack_classifier,
    word_shares,
)
from charm_rm.data.categories import CATEGORIES, CODE_GENERATION, CREATIVE_WRITING, MATH_REASONING
from charm_rm.data.prompts import as_messages, prompt_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
SNAPSHOT = HERE.parent / "src/charm_rm/data/snapshots/category_classifier.npz"
STATED = {  # source and what it calls its prompts -> the class
    ("gsm8k_train", "math word problem"): MATH_REASONING,
    ("humaneval", "python function"): CODE_GENERATION,
    ("arena_hard_v2.0", "coding"): CODE_GENERATION,
    ("arena_hard_v2.0", "math"): MATH_REASONING,
    ("arena_hard_v2.0", "creative_writing"): CREATIVE_WRITING,
}
MOST_STATED = {"gsm8k_train": 150, "humaneval": 100}  # alike; more of them teach nothing new
EASY = "hh_harmless_first_turn"  # 1,200 harmful requests: each of its Others counts for less
EASY_WEIGHT = 0.1
VECTOR_SCALE = 0.7  # of the word vectors beside the hashed terms
PENALTY = 0.4  # on half the squared weights
N_FOLDS = 5
NEAR_COPY = 0.6  # cosine of hashed terms
FRESH = {  # prompts of each source in the fresh sample
    "alpaca_eval/helpful_base": 12,
    "alpaca_eval/koala": 15,
    "alpaca_eval/oasst": 18,
    "alpaca_eval/selfinstruct": 23,
    "alpaca_eval/vicuna": 7,
    "arena_hard_v0.1": 19,
    "arena_hard_v2.0": 19,
    "awesome_chatgpt_prompts": 6,
    "hh_harmless_first_turn": 12,
    "mt_bench": 6,
    "self_instruct_seed": 13,
}
N_MODEL_WORDS = 20_000  # the most frequent words of the language model
COMMON_DIRECTIONS = 2  # of the embeddings; they tell frequency, not meaning


@dataclass(frozen=True)
class Words:
    """Words with a vector each: CRC-32 ascending, unit vectors, shape (n_words, width)."""

    hashes: NDArray[np.uint32]
    vectors: Floats


def main() -> None:
    """Reads the command line, trains, prints what was measured and writes the classifier."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data")
    parser.add_argument("--base", type=Path, required=True, help="from small_reward_model.py base")
    parser.add_argument("--out", type=Path, default=SNAPSHOT)
    parser.add_argument("--no-folds", action="store_true", help="skip the cross-validation")
    arguments = parser.parse_args()
    prompts = read_prompts(arguments.data)
    samples = {"development": prompts.join(read_labels("development"), on="prompt_id")}
    drawn = draw_sample(prompts, samples["development"])
    if labels_path("fresh").exists():
        samples["fresh"] = drawn.join(read_labels("fresh"), on="prompt_id", validate="1:1")
    held_out = pl.concat([samples["development"]["prompt"], drawn["prompt"]])
    train = drop_near_copies(training_prompts(prompts), held_out)
    print(f"{len(train)} training prompts")
    print(train["category"].value_counts(sort=True))
    words = read_words(arguments.base, train["prompt"].to_list())
    if not arguments.no_folds:
        cross_validate(train, words)
    packed = pack_classifier(fit_classifier(train, words))
    arguments.out.write_bytes(packed)
    print(f"wrote {arguments.out}: {len(packed):,} bytes", file=sys.stderr)
    classifier = unpack_classifier(packed)
    for name, sample in samples.items():
        print(f"On the {len(sample)} prompts of the {name} sample (accuracy, 95% interval):")
        report(sample, classifier(sample["prompt"].to_list()))


def read_prompts(data: Path) -> pl.DataFrame:
    """Columns ``prompt_id, source, stated, prompt`` of the prompts of others."""
    own = pl.read_parquet(data / "prompts/prompts.parquet").select(
        "prompt_id", "source", pl.col("source_category").alias("stated"), "prompt"
    )
    added = pl.read_parquet(data / "alpaca_eval/instructions.parquet").select(
        ("alpaca_eval/" + pl.col("dataset")).alias("source"), prompt="instruction"
    )
    ids = [prompt_digest(as_messages(prompt)) for prompt in added["prompt"]]
    added = added.select(
        pl.Series("prompt_id", ids), "source", pl.lit("").alias("stated"), "prompt"
    )
    return pl.concat([own, added]).unique("prompt_id", keep="first", maintain_order=True)


def read_labels(part: str) -> pl.DataFrame:
    """Columns ``prompt_id, category`` of what the reader labelled."""
    return pl.read_csv(labels_path(part))


def labels_path(part: str) -> Path:
    """Where the labels of the training prompts or of a sample are."""
    return HERE / f"category_labels_{part}.csv"


def draw_sample(prompts: pl.DataFrame, development: pl.DataFrame) -> pl.DataFrame:
    """The prompts of the fresh sample; none nearly repeats one of the development sample."""
    pool = prompts.filter(pl.col("source").is_in(list(FRESH)))
    pool = pool.join(development, on="prompt_id", how="anti")
    digests = [hashlib.sha256(f"fresh {one}".encode()).hexdigest() for one in pool["prompt_id"]]
    pool = pool.with_columns(pl.Series("digest", digests))
    pool = drop_near_copies(pool, development["prompt"])
    rank = pl.col("digest").rank("ordinal").over("source")
    most = pl.col("source").replace_strict(FRESH, return_dtype=pl.Int64)
    return pool.filter(rank <= most).sort("source", "digest").drop("digest")


def training_prompts(prompts: pl.DataFrame) -> pl.DataFrame:
    """Labelled prompts: the reader's label, else the one that the source states; and our own."""
    stated = pl.DataFrame(
        [(*key, category) for key, category in STATED.items()],
        schema=["source", "stated", "by_source"],
        orient="row",
    )
    rank = pl.col("prompt_id").rank("ordinal").over("source")
    most = pl.col("source").replace_strict(MOST_STATED, default=len(prompts))
    labelled = (
        prompts.join(read_labels("train"), on="prompt_id", how="left")
        .join(stated, on=["source", "stated"], how="left")
        .with_columns(by_source=pl.when(rank <= most).then("by_source"))
        .with_columns(pl.coalesce("category", "by_source").alias("category"))
        .filter(pl.col("category").is_not_null())
        .join(read_labels("development"), on="prompt_id", how="anti")
        .select("prompt_id", "source", "prompt", "category")
    )
    own = pl.read_csv(HERE / "category_prompts.csv")
    ids = [prompt_digest(as_messages(prompt)) for prompt in own["prompt"]]
    own = own.with_columns(pl.Series("prompt_id", ids), pl.lit("our own").alias("source"))
    return pl.concat([labelled, own.select(labelled.columns)]).sort("prompt_id")


def drop_near_copies(train: pl.DataFrame, held_out: pl.Series) -> pl.DataFrame:
    """Training prompts that share less than `NEAR_COPY` of their terms with each held-out one."""
    both = [*train["prompt"], *held_out]
    terms = hashed_terms(both, document_frequency(hashed_terms(both)))
    lengths = np.sqrt(terms.power(2).sum(axis=1))
    cosines = (terms[: len(train)] @ terms[len(train) :].T).toarray()
    cosines /= np.outer(lengths[: len(train)], lengths[len(train) :])
    return train.filter(pl.Series(cosines.max(axis=1) < NEAR_COPY))


def document_frequency(terms: csr_array) -> Floats:
    """Inverse document frequency of each column, 0 where it never occurs."""
    n_rows, n_columns = terms.shape
    rows = np.bincount(terms.indices, minlength=n_columns)
    return np.where(rows > 0, np.log((1 + n_rows) / (1 + rows)) + 1, 0)


def read_words(base: Path, texts: Sequence[str]) -> Words:
    """Words of the language model and of the training prompts, by its input embeddings."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    with safe_open(base / "model.safetensors", "pt") as tensors:
        embeddings = tensors.get_tensor("model.embed_tokens.weight").float().numpy()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    by_rank = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    names = (token[1:] for token, _ in by_rank if token.startswith("Ġ"))
    frequent = list(dict.fromkeys(name.lower() for name in names if name.isalpha()))
    seen = sorted({word for text in texts for word in tokenize(text)})
    by_hash = {crc32(word.encode()): word for word in [*seen, *frequent[:N_MODEL_WORDS]]}
    hashes = sorted(by_hash)
    vectors = [word_vector(by_hash[one], tokenizer, embeddings) for one in hashes]
    return Words(np.array(hashes, dtype=np.uint32), unit_vectors(np.stack(vectors)))


def word_vector(word: str, tokenizer: Tokenizer, embeddings: Floats) -> Floats:
    """Mean embedding of the tokens of a word within a sentence, and at half weight capitalised."""
    lower, upper = (tokenizer.encode(f" {form}").ids for form in (word, word.capitalize()))
    return np.asarray(embeddings[lower].mean(axis=0) + embeddings[upper].mean(axis=0) / 2)


def unit_vectors(vectors: Floats) -> Floats:
    """Vectors without what all have in common, of length 1."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    common = directions[:, -COMMON_DIRECTIONS:]
    centred -= (centred @ common) @ common.T
    return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True))


def fit_classifier(train: pl.DataFrame, words: Words) -> CategoryClassifier:
    """Multinomial logistic regression on hashed terms and word vectors, multiplied out."""
    texts = train["prompt"].to_list()
    idf = document_frequency(hashed_terms(texts))
    word_idf = inverse_word_frequency(texts, words)
    pools = [share @ words.vectors for share in word_shares(texts, words.hashes, word_idf)]
    scales = [VECTOR_SCALE / np.linalg.norm(pool, axis=1).mean() for pool in pools]
    scaled = [csr_array(scale * pool) for scale, pool in zip(scales, pools, strict=True)]
    features = csr_array(hstack([hashed_terms(texts, idf), *scaled]))
    weights, intercept = fit_weights(features, train)
    width = words.vectors.shape[1]
    parts = np.split(weights, [N_BUCKETS, N_BUCKETS + width])
    return CategoryClassifier(
        idf=idf,
        weights=parts[0],
        words=words.hashes,
        word_idf=word_idf,
        meaning=np.stack([s * words.vectors @ w for s, w in zip(scales, parts[1:], strict=True)]),
        intercept=intercept,
    )


def inverse_word_frequency(texts: Sequence[str], words: Words) -> Floats:
    """log((1 + prompts) / (1 + prompts with the word)), highest where it was never seen."""
    present, _ = word_shares(texts, words.hashes, np.ones(len(words.hashes)))
    rows = np.bincount(present.indices, minlength=len(words.hashes))
    return np.asarray(np.log((1 + len(texts)) / (1 + rows)))


def fit_weights(features: csr_array, train: pl.DataFrame) -> tuple[Floats, Floats]:
    """Weights of shape (n_features, 6) and intercepts that minimise the penalised log loss."""
    n_features, n_classes = features.shape[1], len(CATEGORIES)
    target = np.array([[one == name for name in CATEGORIES] for one in train["category"]], float)
    easy = (train["source"] == EASY).to_numpy() & (target[:, -1] > 0)
    sample = np.where(easy, EASY_WEIGHT, 1.0)
    shares = sample @ target / sample.sum()
    sample *= target @ (1 / (n_classes * shares))  # all classes count alike
    transposed = features.T.tocsr()

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, intercept = np.split(flat, [n_features * n_classes])
        weights = weights.reshape(n_features, n_classes)
        log_p = log_softmax(features @ weights + intercept, axis=1)
        error = sample[:, None] * (np.exp(log_p) - target)
        value = PENALTY / 2 * (weights**2).sum() - sample @ (target * log_p).sum(axis=1)
        slope = transposed @ error + PENALTY * weights
        return float(value), np.concatenate([slope.ravel(), error.sum(axis=0)])

    start = np.zeros((n_features + 1) * n_classes)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxcor": 5}).x
    weights, intercept = np.split(best, [n_features * n_classes])
    return weights.reshape(n_features, n_classes), intercept


def cross_validate(train: pl.DataFrame, words: Words) -> None:
    """Prints how often five classifiers are right on the prompts that they did not see."""
    fold = np.random.default_rng(0).integers(0, N_FOLDS, len(train))
    found = np.empty(len(train), dtype=object)
    for own in range(N_FOLDS):
        classifier = fit_classifier(train.filter(pl.Series(fold != own)), words)
        found[fold == own] = classifier(train.filter(pl.Series(fold == own))["prompt"].to_list())
    right = train.with_columns(right=pl.Series(found == train["category"].to_numpy()))
    print("Cross-validated on the training prompts:")
    for source, n, accuracy in (
        right.group_by("source").agg(pl.len(), pl.col("right").mean()).sort("source").iter_rows()
    ):
        print(f"  {source:28} {n:5} {accuracy:.3f}")


def report(test: pl.DataFrame, found: Sequence[str]) -> None:
    """Prints accuracy with its interval, by part of the sample, macro-F1 and the confusions."""
    frame = test.with_columns(pl.Series("found", found))
    alpaca = pl.col("source").str.starts_with("alpaca_eval/")
    parts = {
        "all": pl.lit(value=True),
        "AlpacaEval": alpaca,
        "of which Koala, no training prompt": pl.col("source") == "alpaca_eval/koala",
        "mixed sources": ~alpaca,
    }
    for name, rows in parts.items():
        part = frame.filter(rows)
        right = int((part["found"] == part["category"]).sum())
        low, high = wilson_interval(right, len(part))
        print(
            f"  {name:36} {right:3}/{len(part):3} {right / len(part):.3f} [{low:.3f}, {high:.3f}]"
        )
    confusion = np.array(
        [
            [((frame["category"] == a) & (frame["found"] == b)).sum() for b in CATEGORIES]
            for a in CATEGORIES
        ]
    )
    f1 = 2 * confusion.diagonal() / (confusion.sum(axis=0) + confusion.sum(axis=1))
    print(f"  macro-F1 {f1.mean():.3f}")
    print("Rows: the reader's class; columns: the classifier's, in the same order; F1.")
    for name, row, one in zip(CATEGORIES, confusion, f1, strict=True):
        print(f"  {name:22}" + "".join(f"{n:5}" for n in row) + f"   {one:.3f}")


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95% interval of a share (Wilson's score interval)."""
    z = 1.959964
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float(middle - half), float(middle + half)


if __name__ == "__main__":
    main()
