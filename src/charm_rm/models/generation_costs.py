"""Tokens, cost and time of a run of a policy: counted afterwards, estimated beforehand.

A price is in a currency of the user's, per million tokens; so is a cost. An estimate says what it
assumes: where responses of the same run are there already, they are what is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from charm_rm.models.policies import Request
from charm_rm.models.response_folder import request_key

CHARS_PER_TOKEN = 4.0  # assumed where nothing was measured
PER = 1_000_000  # tokens that a price is for


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens.

    Attributes:
        tokens_in: Of the conversation.
        tokens_out: Of the response, reasoning included.
    """

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def cost(self, n_in: float, n_out: float) -> float:
        """What so many tokens cost.

        Example:
            >>> Prices(0.15, 0.6).cost(2_000_000, 1_000_000)
            0.9
        """
        return (n_in * self.tokens_in + n_out * self.tokens_out) / PER


@dataclass(frozen=True)
class Tally:
    """What a table of responses holds, counted.

    Attributes:
        n_responses: Rows.
        finish_reasons: Reason -> rows, the most frequent first; "none" where none was given.
        n_truncated: Rows that ended at the limit of new tokens.
        n_too_long: Rows of more new tokens than the limit: whoever wrote them ignores it.
        n_empty: Rows whose response is blank.
        n_sampled: Prompts with several responses.
        n_same: Those of them whose responses are all the same.
        n_with_reasoning: Rows with reasoning, which is not part of the response.
        n_prompt_tokens: Tokens of the conversations, of rows that say.
        n_tokens: Tokens written, of rows that say.
        n_uncounted: Rows that do not say.
    """

    n_responses: int
    finish_reasons: dict[str, int]
    n_truncated: int
    n_too_long: int
    n_empty: int
    n_sampled: int
    n_same: int
    n_with_reasoning: int
    n_prompt_tokens: int
    n_tokens: int
    n_uncounted: int


def tally_responses(table: pl.DataFrame, *, max_new_tokens: int) -> Tally:
    """Counts over a table of responses.

    Args:
        table: As `charm_rm.models.generating.generate_responses` makes it.
        max_new_tokens: The limit that was asked for.

    Returns:
        The counts.

    Example:
        >>> row = {"prompt_id": "p", "response": "Hi", "finish_reason": None, "reasoning": None}
        >>> table = pl.DataFrame([row | {"n_prompt_tokens": 3, "n_tokens": 2}])
        >>> tally_responses(table, max_new_tokens=8).finish_reasons
        {'none': 1}
    """
    reasons = table["finish_reason"].cast(pl.String).fill_null("none")
    counted = reasons.value_counts(name="n").sort(["n", "finish_reason"], descending=[True, False])
    texts = table.group_by("prompt_id").agg(n=pl.len(), texts=pl.col("response").n_unique())
    several = texts.filter(pl.col("n") > 1)
    either = pl.col("n_prompt_tokens").is_null() | pl.col("n_tokens").is_null()
    return Tally(
        n_responses=len(table),
        finish_reasons=dict(counted.iter_rows()),
        n_truncated=int((reasons == "length").sum()),
        n_too_long=int((table["n_tokens"] > max_new_tokens).sum()),
        n_empty=int((table["response"].cast(pl.String).str.strip_chars() == "").sum()),
        n_sampled=len(several),
        n_same=int((several["texts"] == 1).sum()),
        n_with_reasoning=len(table) - table["reasoning"].null_count(),
        n_prompt_tokens=int(table["n_prompt_tokens"].sum()),
        n_tokens=int(table["n_tokens"].sum()),
        n_uncounted=int(table.select(either.sum()).item()),
    )


@dataclass(frozen=True)
class Estimate:
    """What a run would take, for the requests that have no response yet.

    Attributes:
        n_requests: How many they are.
        n_measured: Responses of the same run that say how many tokens they took; 0 if none do.
        chars_per_token: Of the conversations: measured on those, else assumed.
        n_prompt_tokens: Tokens of the conversations.
        n_tokens: Tokens that will be written, if the responses are as long as those measured;
            None where nothing was.
        most_tokens: Tokens written if every response is as long as it may be.
        cost: At ``n_tokens``; None where that is.
        most_cost: At ``most_tokens``.
    """

    n_requests: int
    n_measured: int
    chars_per_token: float
    n_prompt_tokens: int
    n_tokens: int | None
    most_tokens: int
    cost: float | None
    most_cost: float


def estimate_run(
    requests: Sequence[Request],
    missing: Sequence[Request],
    stored: pl.DataFrame,
    *,
    max_new_tokens: int,
    prices: Prices,
) -> Estimate:
    """Tokens and cost of what is missing.

    Args:
        requests: All that is wanted.
        missing: Those without a response.
        stored: Rows of the others; see `charm_rm.models.generating.find_missing`.
        max_new_tokens: Longest response.
        prices: Per million tokens.

    Returns:
        The estimate.

    Example:
        >>> request = Request("p", 0, ({"role": "user", "content": "Why is it so?"},), seed=0)
        >>> from charm_rm.models.response_folder import PART_SCHEMA
        >>> none = pl.DataFrame(schema=PART_SCHEMA)
        >>> how = {"max_new_tokens": 100, "prices": Prices(1.0, 1.0)}
        >>> estimate_run([request], [request], none, **how).n_prompt_tokens
        3
    """
    counted = stored.drop_nulls(["n_prompt_tokens", "n_tokens"])
    keys = set(counted.select("prompt_id", "sample").iter_rows())
    chars = sum(_n_chars(one) for one in requests if request_key(one) in keys)
    n_read = int(counted["n_prompt_tokens"].sum())
    per_token = chars / n_read if n_read else CHARS_PER_TOKEN
    n_in = round(sum(map(_n_chars, missing)) / per_token) if per_token else 0
    most = len(missing) * max_new_tokens
    n_out = round(float(counted["n_tokens"].mean()) * len(missing)) if keys else None  # type: ignore[arg-type]
    return Estimate(
        n_requests=len(missing),
        n_measured=len(keys),
        chars_per_token=per_token,
        n_prompt_tokens=n_in,
        n_tokens=n_out,
        most_tokens=most,
        cost=None if n_out is None else prices.cost(n_in, n_out),
        most_cost=prices.cost(n_in, most),
    )


def _n_chars(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)
