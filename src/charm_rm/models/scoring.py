"""Scores of conversations: a reward model as a callable, and a long run that resumes.

On an accelerator sequences are padded into batches under a token budget; on a CPU they run one at
a time, without padding or mask, which is fastest there. The head computes in float32 either way.

Parts are keyed by what the model reads (a digest of the token ids), not by who wrote it: a
response that changed is scored again, equal responses of two policies have equal scores, and a
killed run loses at most the chunk in flight.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from charm_rm.data.parts import Parts, Setting, open_parts
from charm_rm.data.prompts import Message
from charm_rm.data.responses import conversation
from charm_rm.data.scores import OPTIONAL, SCORE_SCHEMA
from charm_rm.data.tables import DataError
from charm_rm.models.encoding import check_conversation, encode_conversations

BATCH_TOKENS = 16_384  # padded tokens of one forward pass on an accelerator; tokens of one part
ENCODED_AT_ONCE = 1_024  # conversations; bounds the memory of the tokenizer's Python lists
DTYPES = MappingProxyType(
    {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
)


@dataclass(frozen=True)
class RewardModel:
    """A loaded reward model: call it with conversations, get score points, shape (n,).

    Attributes:
        name: Its hub id, or the name of its directory.
        tokenizer: Its tokenizer.
        backbone: Token ids -> hidden states, in ``dtype``.
        head: Hidden state of the last token -> score, always float32.
        bos: Whether exactly one BOS token stands in front.
        template: Chat template, as Jinja text.
        max_length: Longest conversation in tokens that is scored whole.
        dtype: Precision of the backbone, a key of ``DTYPES``.
        device: Where it computes.
        padded: Whether sequences are padded into batches (accelerators) or run one at a time
            (fastest on a CPU).
        files: Configuration and weights that were read, for `fingerprint`.
        warnings: What a user should know about this model's input, one line each.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    backbone: torch.nn.Module
    head: torch.nn.Module
    bos: bool
    template: str
    max_length: int
    dtype: str
    device: torch.device
    padded: bool
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> NDArray[np.float64]:
        """Score points of conversations, shape (n,); warns when one had to be truncated."""
        sequences = self.encode(conversations)
        n_truncated = sum(len(ids) > self.max_length for ids in sequences)
        if n_truncated:
            warnings.warn(
                f"{n_truncated} of {len(sequences)} conversations are longer than "
                f"{self.max_length} tokens and are scored on their first {self.max_length}",
                stacklevel=2,
            )
        return self.score_ids([ids[: self.max_length] for ids in sequences])

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of conversations, of full length; see `encode_conversations`."""
        return encode_conversations(
            conversations, self.tokenizer, bos=self.bos, template=self.template
        )

    def score_ids(
        self, sequences: Sequence[Sequence[int]], *, batch_tokens: int = BATCH_TOKENS
    ) -> NDArray[np.float64]:
        """Score points of encoded conversations, in their order, shape (n,).

        Args:
            sequences: Token ids, at most ``max_length`` each.
            batch_tokens: Padded tokens per forward pass, where sequences are padded.

        Raises:
            ValueError: If a sequence is empty or longer than ``max_length``.
        """
        lengths = [len(ids) for ids in sequences]
        if lengths and not 0 < min(lengths) <= max(lengths) <= self.max_length:
            raise ValueError(
                f"sequences hold {min(lengths)} to {max(lengths)} tokens; "
                f"this model takes 1 to {self.max_length}"
            )
        scores = np.empty(len(sequences))
        one_by_one = [[row] for row in range(len(sequences))]
        batches = length_batches(lengths, batch_tokens) if self.padded else one_by_one
        for rows in batches:
            scores[rows] = self._score_batch([sequences[row] for row in rows])
        return scores

    @torch.inference_mode()
    def _score_batch(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """One forward pass; the lengths are known, so no pad id is ever looked for."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        longest = int(lengths.max())
        ids = torch.zeros(len(sequences), longest, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        mask = (torch.arange(longest) < lengths[:, None]).long().to(self.device)
        try:
            hidden = self.backbone(
                input_ids=ids.to(self.device),
                # Without padding no mask: PyTorch then takes its fused causal attention.
                attention_mask=mask if int(lengths.min()) < longest else None,
                use_cache=False,
            ).last_hidden_state
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{self.device} has no memory for {len(sequences)} sequences of {longest} tokens; "
                "give a smaller --batch-tokens or --max-length"
            ) from error
        last = hidden[torch.arange(len(sequences)), lengths - 1].float()
        scores: NDArray[np.float64] = self.head(last).squeeze(-1).double().cpu().numpy()
        return scores

    def fingerprint(self) -> dict[str, Setting]:
        """What decides this model's scores, to be compared when a run resumes."""
        return {
            "reward_model": self.name,
            "weights": _digest_files(self.files),
            "template": hashlib.sha256(self.template.encode()).hexdigest()[:16],
            "bos": self.bos,
            "max_length": self.max_length,
            "dtype": self.dtype,
            "device": self.device.type,
        }


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Rows grouped by length, longest first, so that padding is small and memory is bounded.

    Args:
        lengths: Tokens of each row.
        batch_tokens: Most tokens of a batch, padding included. A longer row is a batch of its own.

    Returns:
        Row numbers of each batch; every row stands in exactly one.

    Raises:
        ValueError: If ``batch_tokens`` is not positive.

    Example:
        >>> length_batches([3, 9, 4, 4], batch_tokens=12)
        [[1], [2, 3, 0]]
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; give a positive number of tokens")
    batches: list[list[int]] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if room == 0:
            batches.append([])
            room = max(1, batch_tokens // max(1, lengths[row]))
        batches[-1].append(row)
        room -= 1
    return batches


def _digest_files(files: Sequence[Path]) -> str:
    """SHA-256 over whole files: a second per gigabyte, less than loading them takes."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def score_responses(
    responses: pl.DataFrame,
    reward_model: RewardModel,
    *,
    parts: str | Path,
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Scores of all responses; what an earlier run left in ``parts`` is not computed again.

    An empty response is a response: it is scored as an empty assistant turn. A conversation over
    the model's ``max_length`` loses its end, as in training, and is marked.

    Args:
        responses: As `charm_rm.data.responses.read_responses` returns them.
        reward_model: The model.
        parts: Folder for the part files; the caller deletes it (`remove_parts`) once the scores
            are safe.
        batch_tokens: Tokens of a chunk, that is of one part, and of one padded batch.
        on_progress: Called with (tokens done, tokens in all) at the start, where the tokens done
            are those of earlier runs, and after each chunk. Equal inputs count once.

    Returns:
        Columns ``prompt_id, policy, sample, score`` (score points), ``reward_model, category``
        (if the responses have it), ``n_tokens`` (before truncation) and ``truncated``, in the
        order of the responses.

    Raises:
        DataError: If a conversation is malformed, the parts come from another model or other
            settings, another run holds them, or the model gives a score that is not finite.
        ValueError: If ``batch_tokens`` is not positive.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> from charm_rm.data.prompts import as_messages
        >>> likes_length = SimpleNamespace(
        ...     name="likes-length",
        ...     max_length=9,
        ...     fingerprint=dict,
        ...     encode=lambda texts: [[len(text[-1]["content"])] for text in texts],
        ...     score_ids=lambda ids, batch_tokens: np.array([float(one[0]) for one in ids]),
        ... )
        >>> row = {"prompt_id": "p", "prompt": as_messages("Hi"), "policy": "a", "sample": 0}
        >>> responses = pl.DataFrame([row | {"response": "Hello"}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     score_responses(responses, likes_length, parts=folder)["score"].item()
        5.0
    """
    encoded = _encode_responses(responses, reward_model)
    with open_parts(parts, settings=reward_model.fingerprint()) as opened:
        scores = _score_missing(encoded, reward_model, opened, batch_tokens, on_progress)
    return score_table(
        responses,
        scores=[scores[key] for key in encoded.keys],
        n_tokens=encoded.n_tokens.tolist(),
        name=reward_model.name,
        max_length=reward_model.max_length,
    )


def score_table(
    responses: pl.DataFrame,
    *,
    scores: Sequence[float],
    n_tokens: Sequence[int],
    name: str,
    max_length: int,
) -> pl.DataFrame:
    """The table of scores that `score_responses` returns, wherever they were computed.

    Args:
        responses: As `charm_rm.data.responses.read_responses` returns them.
        scores: Score points, one per response, in their order.
        n_tokens: Tokens of each conversation before truncation.
        name: Of the reward model.
        max_length: Tokens at which it cuts.

    Returns:
        The columns of `score_responses`.

    Example:
        >>> rows = {"prompt_id": ["p"], "policy": ["a"], "sample": [0], "response": ["Hi"]}
        >>> table = score_table(
        ...     pl.DataFrame(rows), scores=[1.5], n_tokens=[9], name="rm", max_length=8
        ... )
        >>> table.row(0)
        ('p', 'a', 0, 1.5, 'rm', 9, True)
    """
    lengths = pl.Series("n_tokens", n_tokens, dtype=pl.Int64)
    table = responses.with_columns(
        pl.Series("score", scores, dtype=pl.Float64),
        pl.lit(name).alias("reward_model"),
        lengths,
        (lengths > max_length).alias("truncated"),
    )
    return table.select(column for column in [*SCORE_SCHEMA, *OPTIONAL] if column in table.columns)


@dataclass(frozen=True)
class _Encoded:
    """What the model reads: a key per row, its length, and the ids behind each distinct key."""

    keys: list[str]
    n_tokens: NDArray[np.int64]
    inputs: dict[str, NDArray[np.int32]]


def _encode_responses(responses: pl.DataFrame, reward_model: RewardModel) -> _Encoded:
    keys: list[str] = []
    n_tokens: list[int] = []
    inputs: dict[str, NDArray[np.int32]] = {}
    for chunk in responses.iter_slices(ENCODED_AT_ONCE):
        conversations = [conversation(row) for row in chunk.iter_rows(named=True)]
        names = chunk.select("prompt_id", "policy").iter_rows()
        for messages, (prompt_id, policy) in zip(conversations, names, strict=True):
            check_conversation(messages, where=f"prompt {prompt_id!r}, policy {policy!r}")
        for sequence in reward_model.encode(conversations):
            ids = np.array(sequence[: reward_model.max_length], dtype=np.int32)
            key = hashlib.sha256(ids.tobytes()).hexdigest()[:32]
            keys.append(key)
            n_tokens.append(len(sequence))
            inputs[key] = ids
    return _Encoded(keys=keys, n_tokens=np.array(n_tokens, dtype=np.int64), inputs=inputs)


def _score_missing(
    encoded: _Encoded,
    reward_model: RewardModel,
    parts: Parts,
    batch_tokens: int,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, float]:
    """Scores by key: those in the parts, and all others computed and appended chunk by chunk."""
    stored = parts.read()
    scores = dict(stored.iter_rows()) if stored is not None else {}
    missing = [key for key in encoded.inputs if key not in scores]
    lengths = [len(encoded.inputs[key]) for key in missing]
    total = sum(map(len, encoded.inputs.values()))
    done = total - sum(lengths)
    if on_progress:
        on_progress(done, total)
    for rows in length_batches(lengths, batch_tokens):
        keys = [missing[row] for row in rows]
        sequences = [encoded.inputs[key].tolist() for key in keys]
        values = reward_model.score_ids(sequences, batch_tokens=batch_tokens)
        _refuse_not_finite(values, keys, encoded, reward_model)
        parts.append(pl.DataFrame({"input": keys, "score": values}))
        scores.update(zip(keys, values.tolist(), strict=True))
        done += sum(map(len, sequences))
        if on_progress:
            on_progress(done, total)
    return scores


def _refuse_not_finite(
    values: NDArray[np.float64], keys: list[str], encoded: _Encoded, reward_model: RewardModel
) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        row = encoded.keys.index(keys[bad[0]])
        raise DataError(
            f"{reward_model.name}: the score of response {row + 1} is {values[bad[0]]} in "
            f"{reward_model.dtype}; try --dtype float32, or check the model"
        )
