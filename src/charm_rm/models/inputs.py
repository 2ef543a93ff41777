"""What a reward model reads of a table of responses: token ids, each distinct input once."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.data.conversations import check_conversation
from charm_rm.data.prompts import Message
from charm_rm.data.responses import conversation
from charm_rm.data.tables import DataError

ENCODED_AT_ONCE = 1_024  # conversations; bounds the memory of the tokenizer's Python lists


class Encoder(Protocol):
    """The part of a reward model that turns conversations into token ids."""

    @property
    def max_length(self) -> int:
        """Longest conversation in tokens that is read whole."""

    def encode(self, conversations: Sequence[Sequence[Message]]) -> Sequence[Sequence[int]]:
        """Token ids of conversations, of full length."""


@dataclass(frozen=True)
class EncodedResponses:
    """What the model reads: a key per row, its length, and the ids behind each distinct key.

    ``n_unread`` counts rows of whose response nothing is read, for the prompt fills the length.
    """

    keys: list[str]
    n_tokens: NDArray[np.int64]
    inputs: dict[str, NDArray[np.int32]]
    n_unread: int


def encode_responses(responses: pl.DataFrame, encoder: Encoder) -> EncodedResponses:
    """Token ids of all responses, cut to the model's length.

    Args:
        responses: As `charm_rm.data.responses.read_responses` returns them.
        encoder: The model.

    Returns:
        Keys and lengths in the order of the responses, and the ids by key.

    Raises:
        DataError: If a conversation is malformed.

    Example:
        >>> from types import SimpleNamespace
        >>> counts = SimpleNamespace(max_length=9, encode=lambda texts: [[1, 2] for _ in texts])
        >>> row = {"prompt_id": "p", "policy": "a", "response": "Hello"}
        >>> prompt = [{"role": "user", "content": "Hi"}]
        >>> encoded = encode_responses(pl.DataFrame([row | {"prompt": prompt}] * 2), counts)
        >>> len(encoded.keys), len(encoded.inputs)
        (2, 1)
    """
    keys: list[str] = []
    n_tokens: list[int] = []
    inputs: dict[str, NDArray[np.int32]] = {}
    n_unread = 0
    for chunk in responses.iter_slices(ENCODED_AT_ONCE):
        conversations = [conversation(row) for row in chunk.iter_rows(named=True)]
        names = chunk.select("prompt_id", "policy").iter_rows()
        for messages, (prompt_id, policy) in zip(conversations, names, strict=True):
            check_conversation(messages, where=f"prompt {prompt_id!r}, policy {policy!r}")
        sequences = encoder.encode(conversations)
        n_unread += sum(find_unread(conversations, sequences, encoder))
        for sequence in sequences:
            ids = np.array(sequence[: encoder.max_length], dtype=np.int32)
            key = hashlib.sha256(ids.tobytes()).hexdigest()[:32]
            keys.append(key)
            n_tokens.append(len(sequence))
            inputs[key] = ids
    return EncodedResponses(
        keys=keys, n_tokens=np.array(n_tokens, dtype=np.int64), inputs=inputs, n_unread=n_unread
    )


def find_unread(
    conversations: Sequence[Sequence[Message]],
    sequences: Sequence[Sequence[int]],
    encoder: Encoder,
) -> list[bool]:
    """Which conversations are cut before their response begins: an empty one would be read alike.

    Args:
        conversations: The conversations.
        sequences: Their token ids, of full length.
        encoder: The model.

    Returns:
        One truth value each.

    Example:
        >>> from types import SimpleNamespace
        >>> says = [[{"role": "assistant", "content": text}] for text in ("Hi", "")]
        >>> ids = SimpleNamespace(max_length=2, encode=lambda texts: [[7, 7] for _ in texts])
        >>> find_unread(says, [[7, 7, 1], [7, 7]], ids)
        [True, False]
    """
    most = encoder.max_length
    cut = [row for row, ids in enumerate(sequences) if len(ids) > most]
    silent = [without_response(conversations[row]) for row in cut]
    empty = dict(zip(cut, encoder.encode(silent) if silent else [], strict=True))
    return [
        row in empty and list(ids[:most]) == list(empty[row][:most])
        for row, ids in enumerate(sequences)
    ]


def without_response(messages: Sequence[Message]) -> list[Message]:
    """A conversation with its last message, the response, made empty.

    Args:
        messages: The conversation.

    Returns:
        As many messages.

    Example:
        >>> without_response([{"role": "assistant", "content": "Hi"}])
        [{'role': 'assistant', 'content': ''}]
    """
    return [*messages[:-1], {"role": "assistant", "content": ""}]


def describe_unread(n_unread: int, *, n_rows: int, max_length: int) -> str:
    """The warning that prompts alone fill the model's length; an error where nothing else is left.

    Args:
        n_unread: Responses of which nothing is read.
        n_rows: All responses.
        max_length: Tokens that the model reads.

    Returns:
        One line.

    Raises:
        DataError: If no response is read.

    Example:
        >>> describe_unread(1, n_rows=2, max_length=8).split(":")[0]
        'of 1 of 2 responses nothing is read'
    """
    line = f"of {n_unread} of {n_rows} responses nothing is read"
    cause = f"their prompts alone fill the {max_length} tokens, so their scores say nothing of them"
    if n_unread == n_rows:
        raise DataError(f"{line}: {cause}; give a larger --max-length or another model")
    return f"{line}: {cause}"


def chunk_inputs(inputs: Mapping[str, NDArray[np.int32]], *, tokens: int) -> Iterator[list[str]]:
    """Inputs of about equal length together, and among these those that begin alike.

    Lengths within a factor of two, the longest first: memory then runs out at the start or never.

    Args:
        inputs: Token ids by key.
        tokens: Most tokens of a chunk; a longer input is a chunk of its own.

    Yields:
        Keys; every key stands in exactly one chunk.

    Raises:
        ValueError: If ``tokens`` is not positive.

    Example:
        >>> ids = {"a": np.arange(3), "b": np.arange(9), "c": np.arange(2)}
        >>> list(chunk_inputs(ids, tokens=10))
        [['b'], ['c', 'a']]
    """
    if tokens < 1:
        raise ValueError(f"batch_tokens is {tokens}; give a positive number of tokens")
    order = sorted(
        inputs,
        key=lambda key: (-len(inputs[key]).bit_length(), inputs[key].astype(">i4").tobytes()),
    )
    chunk: list[str] = []
    used = 0
    for key in order:
        if chunk and used + len(inputs[key]) > tokens:
            yield chunk
            chunk, used = [], 0
        chunk.append(key)
        used += len(inputs[key])
    if chunk:
        yield chunk
