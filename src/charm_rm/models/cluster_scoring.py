"""Scores of responses from an actor pool: the same table as `charm_rm.models.scoring` gives.

The driver reads no weights and encodes nothing: it hands out conversations, and the workers encode
and score them. One worker loads the model first and says what it is, so that a mistake is one line
and not one per worker; every other worker must find the same weights. Parts are written by the
driver and keyed by the conversation: what they hold is not computed again.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from charm_rm.data.conversations import check_conversation
from charm_rm.data.parts import Parts, Setting, open_parts
from charm_rm.data.prompts import prompt_digest
from charm_rm.data.responses import conversation
from charm_rm.data.scores import attach_scores
from charm_rm.data.tables import DataError
from charm_rm.models.cluster import (
    MapChunk,
    Workers,
    call_on_worker,
    map_chunks,
    open_cluster,
    plan_workers,
    require_same_model,
)
from charm_rm.models.inputs import describe_unread, find_unread
from charm_rm.models.scoring import BATCH_TOKENS, RewardModel

CHARACTERS_PER_TOKEN = 4  # of a chunk that nobody has encoded yet
PART = {"key": pl.String, "score": pl.Float64, "n_tokens": pl.Int64, "unread": pl.Boolean}
BATCHES_PER_CHUNK = 4  # so that a worker can sort by length, and prompts stay together

Load = Callable[[], RewardModel]


@dataclass(frozen=True)
class ClusterModel:
    """A reward model on the workers of an open cluster; what `score_on_cluster` takes.

    Attributes:
        name: Its hub id, or the name of its directory.
        dtype: Precision of the backbone.
        device: Workers and what they compute on.
        max_length: Longest conversation in tokens that is scored whole.
        warnings: What a user should know about this model's input, one line each.
        settings: Its fingerprint, which every worker must find again.
        load: Loads it on a worker.
        workers: The layout of the pool.
    """

    name: str
    dtype: str
    device: str
    max_length: int
    warnings: tuple[str, ...]
    settings: Mapping[str, Setting]
    load: Load
    workers: Workers

    def fingerprint(self) -> dict[str, Setting]:
        """What decides this model's scores, as `RewardModel.fingerprint` says it."""
        return dict(self.settings)


@contextmanager
def model_on_cluster(
    load: Load, *, address: str, n_workers: int | None = None, device: str | None = None
) -> Iterator[ClusterModel]:
    """A reward model on a Ray cluster, for as long as the block lasts.

    Args:
        load: Loads the model, on whatever machine it is called; it travels by pickle.
        address: Of the cluster, as `open_cluster` takes it.
        n_workers: Workers, each with a model of its own; by default one per GPU, or one per node
            of a cluster without GPUs.
        device: PyTorch device that ``load`` asks for; the GPUs are left alone for ``"cpu"``.

    Yields:
        The model, once one worker has loaded it.

    Raises:
        DataError: If the cluster is not reached or too small, or the model can't be loaded.

    Example:
        >>> with model_on_cluster(dict, address="moon"):
        ...     pass
        Traceback (most recent call last):
        charm_rm.data.tables.DataError: --ray moon: not an address; give HOST:PORT, auto or local
    """
    with open_cluster(address) as nodes:
        use_gpus = device is None or not device.startswith("cpu")
        workers = plan_workers(nodes, n_workers=n_workers, use_gpus=use_gpus)
        yield call_on_worker(partial(_describe, load, workers), workers=workers)


def _describe(load: Load, workers: Workers) -> ClusterModel:
    """What the driver must know of a model that it does not load itself."""
    model = load()
    return ClusterModel(
        name=model.name,
        dtype=model.dtype,
        device=f"{workers.n} worker{'s' * (workers.n > 1)} ({model.device.type})",
        max_length=model.max_length,
        warnings=model.warnings,
        settings=model.fingerprint(),
        load=load,
        workers=workers,
    )


def score_on_cluster(
    responses: pl.DataFrame,
    model: ClusterModel,
    *,
    parts: str | Path,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
    on_warning: Callable[[str], object] = warnings.warn,
) -> pl.DataFrame:
    """Scores of all responses from the workers; the arguments are those of `score_responses`.

    Args:
        responses: As `charm_rm.data.responses.read_responses` returns them.
        model: From `model_on_cluster`, whose block is still open.
        parts: Folder for the part files, on the driver. Those of a run without a cluster are not
            taken over: they are keyed otherwise.
        batch_tokens: Tokens of a padded batch; a chunk, which a worker gets at once and a killed
            run loses, has about four times as many.
        on_progress: Called with (tokens done, tokens in all). The second is an estimate from the
            characters until all are done.
        on_warning: Called with one line, once all are scored, when prompts alone fill the model's
            length.

    Returns:
        The table of `score_responses`.

    Raises:
        DataError: If a conversation is malformed, no response is read for its prompt's length, the
            parts come from another model or other settings, another run holds them, a worker finds
            other weights or gives a score that is not finite, or the cluster gives up.

    Example:
        >>> import tempfile
        >>> from charm_rm.data.prompts import as_messages
        >>> row = {"prompt_id": "p", "prompt": as_messages("Hi"), "policy": "a", "sample": 0}
        >>> nothing = pl.DataFrame([row | {"response": "Hello"}]).clear()
        >>> workers = Workers(n=1, cpus=1, gpus=0.0)
        >>> model = ClusterModel("rm", "float32", "cpu", 9, (), {}, dict, workers)
        >>> with tempfile.TemporaryDirectory() as folder:  # without work, no worker is asked
        ...     score_on_cluster(nothing, model, parts=folder).columns
        ['prompt_id', 'policy', 'sample', 'score', 'reward_model', 'n_tokens', 'truncated']
    """
    work = list_conversations(responses)
    with open_parts(parts, settings=model.fingerprint() | {"key": "conversation"}) as opened:
        done = _score_missing(work, model, opened, batch_tokens, on_progress)
    joined = work.select("key").join(done, on="key", how="left", maintain_order="left")
    n_unread = int(joined["unread"].sum())
    if n_unread:
        on_warning(describe_unread(n_unread, n_rows=len(work), max_length=model.max_length))
    return attach_scores(
        responses,
        scores=joined["score"].to_list(),
        n_tokens=joined["n_tokens"].to_list(),
        name=model.name,
        max_length=model.max_length,
    )


def list_conversations(responses: pl.DataFrame) -> pl.DataFrame:
    """The responses with a key each, and their size: what is to be scored, before any model.

    Args:
        responses: As `charm_rm.data.responses.read_responses` returns them.

    Returns:
        Columns ``key`` (digest of the conversation), ``prompt_id, policy, prompt, response`` and
        ``n_characters`` (of both texts), in the order of the responses.

    Raises:
        DataError: If a conversation is malformed.

    Example:
        >>> from charm_rm.data.prompts import as_messages
        >>> row = {"prompt_id": "p", "policy": "a", "prompt": as_messages("Hi"), "response": "Hey"}
        >>> list_conversations(pl.DataFrame([row])).select("key", "n_characters").row(0)
        ('9ffee66e23428dc0', 5)
    """
    keys, sizes = [], []
    for row in responses.select("prompt_id", "policy", "prompt", "response").iter_rows(named=True):
        messages = conversation(row)
        check_conversation(messages, where=f"prompt {row['prompt_id']!r}, policy {row['policy']!r}")
        keys.append(prompt_digest(messages))
        sizes.append(sum(len(message["content"]) for message in messages))
    return responses.select(
        pl.Series("key", keys, dtype=pl.String),
        "prompt_id",
        "policy",
        "prompt",
        "response",
        pl.Series("n_characters", sizes, dtype=pl.Int64),
    )


def cut_chunks(work: pl.DataFrame, *, characters: int) -> list[pl.DataFrame]:
    """Conversations in chunks of about equal size, those with the longest ones first.

    Responses to one prompt stay together as far as they fit. What needs most memory comes first,
    so that a model that does not fit shows it at once, and the last chunks to end are short.

    Args:
        work: Some rows of `list_conversations`, each key once.
        characters: Size of a chunk; a longer conversation is a chunk of its own.

    Returns:
        Tables with the columns of ``work``; every row stands in exactly one.

    Example:
        >>> work = pl.DataFrame({"prompt_id": ["p", "q", "p"], "n_characters": [3, 9, 4]})
        >>> [chunk["n_characters"].to_list() for chunk in cut_chunks(work, characters=8)]
        [[9], [3, 4]]
    """
    ordered = work.sort("prompt_id", maintain_order=True)
    numbers, number, room = [], -1, 0
    for size in ordered["n_characters"]:
        if number < 0 or size > room:
            number, room = number + 1, characters
        numbers.append(number)
        room -= size
    chunks = ordered.with_columns(_chunk=pl.Series(numbers)).partition_by(
        "_chunk", maintain_order=True, include_key=False
    )
    return sorted(chunks, key=lambda chunk: -int(chunk["n_characters"].max()))  # type: ignore[arg-type]


def _score_missing(
    work: pl.DataFrame,
    model: ClusterModel,
    parts: Parts,
    batch_tokens: int,
    on_progress: Callable[[int, int], None] | None,
) -> pl.DataFrame:
    """The columns of ``PART`` for every conversation: those in the parts, and all others.

    The chunks are those of all conversations, so that a resumed run computes the rest in the same
    company as an uninterrupted one, and to the same last bit.
    """
    work = work.unique("key", keep="first", maintain_order=True)
    stored = parts.read()
    frames = [pl.DataFrame(schema=PART) if stored is None else stored.join(work, "key", "semi")]
    meter = _Meter(work, model.max_length, on_progress)
    meter.add(frames[0])
    characters = BATCHES_PER_CHUNK * CHARACTERS_PER_TOKEN * batch_tokens
    whole = cut_chunks(work, characters=characters)
    rest = [chunk.join(frames[0], "key", "anti", maintain_order="left") for chunk in whole]
    chunks = [chunk for chunk in rest if not chunk.is_empty()]
    scorer = partial(make_scorer, model.load, settings=model.settings, batch_tokens=batch_tokens)
    for frame in map_chunks(chunks, scorer, workers=model.workers):
        _refuse_not_finite(frame, work, model)
        parts.append(frame)
        frames.append(frame)
        meter.add(frame)
    return pl.concat(frames)


@dataclass
class _Meter:
    """Tokens done, and in all: what is left is estimated from its characters."""

    work: pl.DataFrame
    max_length: int
    show: Callable[[int, int], None] | None
    tokens: int = 0
    characters: int = 0

    def add(self, frame: pl.DataFrame) -> None:
        self.tokens += int(frame["n_tokens"].clip(upper_bound=self.max_length).sum())
        sizes = frame.join(self.work, on="key")["n_characters"]
        self.characters += int(sizes.sum())
        left = int(self.work["n_characters"].sum()) - self.characters
        rate = self.tokens / self.characters if self.tokens else 1 / CHARACTERS_PER_TOKEN
        if self.show is not None:
            self.show(self.tokens, self.tokens + round(left * rate))


def make_scorer(
    load: Load, *, settings: Mapping[str, Setting], batch_tokens: int = BATCH_TOKENS
) -> MapChunk:
    """What a worker does with a chunk: encodes and scores its conversations.

    Args:
        load: Loads the reward model here.
        settings: The fingerprint that it must have.
        batch_tokens: Padded tokens per forward pass.

    Returns:
        A function from chunks of `cut_chunks` to ``key, score`` (score points), ``n_tokens``
        (before truncation) and ``unread`` (whether nothing of the response is read).

    Raises:
        DataError: If the model can't be loaded, or is not the one of the other workers.

    Example:
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> from charm_rm.data.prompts import as_messages
        >>> likes_length = SimpleNamespace(
        ...     max_length=9,
        ...     fingerprint=dict,
        ...     encode=lambda texts: [[len(text[-1]["content"])] for text in texts],
        ...     score_ids=lambda ids, batch_tokens: np.array([float(one[0]) for one in ids]),
        ... )
        >>> score_chunk = make_scorer(lambda: likes_length, settings={})
        >>> row = {"key": "k", "prompt": as_messages("Hi"), "response": "Hello"}
        >>> score_chunk(pl.DataFrame([row])).row(0)
        ('k', 5.0, 1, False)
    """
    model = load()
    require_same_model(model.fingerprint(), settings, name=str(settings.get("reward_model")))

    def score_chunk(chunk: pl.DataFrame) -> pl.DataFrame:
        conversations = [conversation(row) for row in chunk.iter_rows(named=True)]
        sequences = model.encode(conversations)
        cut = [ids[: model.max_length] for ids in sequences]
        scores = model.score_ids(cut, batch_tokens=batch_tokens)
        return chunk.select(
            "key",
            pl.Series("score", scores, dtype=pl.Float64),
            pl.Series("n_tokens", [len(ids) for ids in sequences], dtype=pl.Int64),
            pl.Series("unread", find_unread(conversations, sequences, model), dtype=pl.Boolean),
        )

    return score_chunk


def _refuse_not_finite(frame: pl.DataFrame, work: pl.DataFrame, model: ClusterModel) -> None:
    bad = frame.filter(~pl.col("score").is_finite())
    if not bad.is_empty():
        row = work.filter(pl.col("key") == bad["key"][0]).row(0, named=True)
        raise DataError(
            f"{model.name}: the score of the response of {row['policy']!r} to prompt "
            f"{row['prompt_id']!r} is {bad['score'][0]} in {model.dtype}; "
            "try --dtype float32, or check the model"
        )
