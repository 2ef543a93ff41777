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
