"""The next token of each sequence: greedy, or drawn from the nucleus of its distribution.

Every sequence is drawn with a number of its own and by its own row of logits alone, so that what
it becomes depends neither on the sequences beside it nor on when it was begun.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from charm_rm.data.tables import DataError

COLDEST = 1e-30  # temperature below which logits would no longer fit into float32
N_LIKELY = 256  # tokens among which the nucleus is looked for before all of them are sorted


def draw_tokens(
    logits: Tensor, *, temperature: float, top_p: float, uniforms: Sequence[float]
) -> list[int]:
    """One token for each row of logits.

    The nucleus is that of transformers' ``TopPLogitsWarper``: with the tokens in falling order of
    probability, each token before which less than ``top_p`` of the probability lies. From it the
    token is taken at which the running sum exceeds u times the sum of all; tokens that are equally
    likely stand in the order of their ids.

    Args:
        logits: Shape (n_rows, n_tokens), on any device.
        temperature: Divides the logits; 0 takes the largest.
        top_p: Probability that the nucleus holds at least, in (0, 1].
        uniforms: The u of each row, in [0, 1); not read at temperature 0.

    Returns:
        Token ids, one a row.

    Raises:
        DataError: If logits are not numbers.

    Example:
        >>> rows = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
        >>> draw_tokens(rows, temperature=0.0, top_p=1.0, uniforms=())
        [1, 0]
        >>> draw_tokens(rows, temperature=1.0, top_p=0.9, uniforms=[0.9, 0.9])
        [2, 0]
    """
    scores = logits.float()
    largest = scores.max(dim=-1)
    if not bool(torch.isfinite(largest.values).all()):
        raise DataError(
            "the model's logits are not numbers in this precision; try --dtype float32, "
            "or check the model"
        )
    if temperature == 0.0:
        return largest.indices.tolist()
    probabilities = torch.softmax(scores / max(temperature, COLDEST), dim=-1)
    drawn = torch.tensor(uniforms, dtype=torch.float64)
    likely, ids = probabilities.topk(min(N_LIKELY, probabilities.shape[1]), dim=-1)
    chosen, short = _draw(likely.cpu(), ids.cpu(), drawn, top_p)
    if likely.shape[1] < probabilities.shape[1] and short.any():
        rows = probabilities[short.to(probabilities.device)]
        whole, ids = rows.sort(dim=-1, descending=True, stable=True)
        chosen[short], _ = _draw(whole.cpu(), ids.cpu(), drawn[short], top_p)
    return chosen.tolist()


def likeliest(logits: Tensor, *, n: int) -> dict[int, float]:
    """The n most probable tokens of one row, with their log-probabilities.

    Args:
        logits: Shape (n_tokens,).
        n: How many; 0 for none.

    Returns:
        Token id -> natural logarithm of its probability, the likeliest first.

    Example:
        >>> {token: round(p, 3) for token, p in likeliest(torch.tensor([0.0, 1.0]), n=1).items()}
        {1: -0.313}
    """
    if not n:
        return {}
    found = torch.log_softmax(logits.float(), dim=-1).topk(min(n, len(logits)))
    return dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def _draw(likely: Tensor, ids: Tensor, uniforms: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """A token a row from the most likely ones, and whether these were too few to tell."""
    by_id = ids.argsort(dim=-1)
    falling, order = likely.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(1, by_id).gather(1, order)
    sums = falling.double().cumsum(dim=-1)
    if top_p >= 1.0:
        reach = uniforms[:, None]
        short = sums[:, -1] <= uniforms
    else:
        n_kept = ((sums - falling) < top_p).sum(dim=-1, keepdim=True)
        reach = uniforms[:, None] * sums.gather(1, n_kept - 1)
        short = sums[:, -1] < top_p
    place = (sums <= reach).sum(dim=-1, keepdim=True).clamp(max=sums.shape[1] - 1)
    return ids.gather(1, place)[:, 0], short
