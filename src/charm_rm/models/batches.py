"""Shapes of a forward pass: how long a sequence is made, and where in it a head reads."""

from collections.abc import Sequence

from charm_rm.data.tables import DataError

PADDED_TO = 32  # tokens; a batch holds sequences of equal length up to the next multiple


def padded_length(length: int, *, most: int) -> int:
    """Tokens to which a sequence is padded, decided by nothing but its own length.

    Args:
        length: Tokens of the sequence.
        most: Tokens that the model takes.

    Returns:
        The next multiple of ``PADDED_TO``, or ``most`` if that is less.

    Example:
        >>> [padded_length(length, most=100) for length in (1, 32, 33, 99)]
        [32, 32, 64, 100]
    """
    return min(-(-length // PADDED_TO) * PADDED_TO, most)


def find_end_of_prompt(sequence: Sequence[int], mark: Sequence[int]) -> int:
    """Where the last occurrence of a mark begins.

    Args:
        sequence: Token ids of a conversation.
        mark: Ids that the template writes between prompt and response.

    Returns:
        Position of the first id of the mark.

    Raises:
        DataError: If the mark does not occur, as when a prompt fills the whole length.

    Example:
        >>> find_end_of_prompt([7, 1, 2, 7, 1, 2, 8], [1, 2])
        4
    """
    for start in range(len(sequence) - len(mark), -1, -1):
        if list(sequence[start : start + len(mark)]) == list(mark):
            return start
    raise DataError(
        f"a conversation of {len(sequence)} tokens has no end of a prompt in it (ids "
        f"{' '.join(map(str, mark))}), which this model's head reads; give a larger --max-length"
    )


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
