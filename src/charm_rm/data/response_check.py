r"""A table of responses, looked at policy by policy: what is missing, empty, repeated or refused.

A refusal is known by how a response begins, by the few patterns of ``REFUSALS``. They are made to
miss some rather than to take an answer for a refusal: "I'm sorry to hear that" is none, and where
the beginning goes on with what ``ANSWERS`` looks for ("however", "but I can"), it is none either.
"""

import re
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

from charm_rm.data.lengths import length_percentiles
from charm_rm.data.tables import DataError

_CANNOT = (
    r"(?:cannot|can't|can not|won't|will not|am unable to|'m unable to|am not able to"
    r"|'m not able to)"
)
_HELP = (
    r"(?:assist|help (?:with|you)|provide|fulfil|fulfill|comply|create|generate|write|engage"
    r"|support|recommend|answer|share|participate|do that)\b"
)
_SORRY = r"(?:(?:i'm|i am) (?:very |really |so )?sorry|sorry|i apologi[sz]e)"
_AS_AN_AI = r"as an (?:ai|artificial intelligence)(?: [a-z]+){0,3},? "
REFUSALS = MappingProxyType(
    {
        "sorry, but I cannot": rf"{_SORRY}[,.;]? (?:but )?(?:{_AS_AN_AI})?i ?{_CANNOT}",
        "I cannot help": rf"(?:unfortunately,? )?(?:{_AS_AN_AI})?i ?{_CANNOT} {_HELP}",
        "I do not feel comfortable": rf"(?:{_SORRY}[,.;]? (?:but )?|unfortunately,? )?"
        r"i (?:do not|don't) feel comfortable",
    }
)
ANSWERS = r"\bhowever\b|\bbut i can\b(?!')"
_BEGINNINGS = {name: re.compile(pattern) for name, pattern in REFUSALS.items()}
_BEGINNING = 200  # characters that are looked at


@dataclass(frozen=True)
class PolicyCheck:
    """Counts over the responses of one policy.

    Attributes:
        policy: Its name.
        n_responses: Rows.
        n_prompts: Prompts that it has a response to.
        n_missing: Prompts that others (or the table of prompts) have and it has not.
        coverage: Share of all prompts that it has a response to.
        n_empty: Responses of blanks alone.
        n_duplicates: Responses that repeat, to the letter, an earlier one of the same policy.
        n_refusals: Responses that begin as a refusal does.
        refusals: Their number by pattern, the first that fits.
        n_cut: Responses whose ``finish_reason`` is ``length``.
        n_reasoning: Responses whose reasoning is kept apart.
        chars: Percentiles of the length of responses that are not empty, in characters.
    """

    policy: str
    n_responses: int
    n_prompts: int
    n_missing: int
    coverage: float
    n_empty: int
    n_duplicates: int
    n_refusals: int
    refusals: dict[str, int]
    n_cut: int
    n_reasoning: int
    chars: dict[str, int]


@dataclass(frozen=True)
class ResponseCheck:
    """Counts over a table of responses.

    Attributes:
        n_prompts: Prompts of the table of prompts, or that any policy has a response to.
        n_complete: Prompts that every policy has a response to that is not empty.
        policies: One check a policy, by name.
    """

    n_prompts: int
    n_complete: int
    policies: tuple[PolicyCheck, ...]


def check_responses(frame: pl.DataFrame, *, prompts: pl.DataFrame | None = None) -> ResponseCheck:
    """What each policy answered, and what it did not.

    Args:
        frame: Columns ``prompt_id, policy, response`` and, where known, ``finish_reason`` and
            ``reasoning``.
        prompts: Prompts that were asked, with ``prompt_id``; by default those of ``frame``.

    Returns:
        The counts.

    Raises:
        DataError: If a response is to a prompt that is not among ``prompts``.

    Example:
        >>> rows = {
        ...     "prompt_id": ["p", "q", "p"],
        ...     "policy": ["a", "a", "b"],
        ...     "response": ["x", "x", ""],
        ... }
        >>> check = check_responses(pl.DataFrame(rows))
        >>> [(one.policy, one.coverage, one.n_duplicates, one.n_empty) for one in check.policies]
        [('a', 1.0, 1, 0), ('b', 0.5, 0, 1)]
    """
    asked = (frame if prompts is None else prompts)["prompt_id"].unique()
    strange = frame.filter(~pl.col("prompt_id").is_in(asked.to_list()))
    if not strange.is_empty():
        raise DataError(
            f"responses: prompt {strange['prompt_id'][0]!r} is not among the prompts "
            f"({strange['prompt_id'].n_unique()} are not); name the prompts that were asked"
        )
    policies = frame["policy"].unique().sort().to_list()
    full = frame.filter(pl.col("response").str.strip_chars() != "")
    answered = full.group_by("prompt_id").agg(pl.col("policy").n_unique())
    return ResponseCheck(
        n_prompts=len(asked),
        n_complete=int((answered["policy"] == len(policies)).sum()),
        policies=tuple(
            _check_policy(frame.filter(pl.col("policy") == policy), policy, n_asked=len(asked))
            for policy in policies
        ),
    )


def refusal_pattern(response: str) -> str | None:
    """Name of the pattern of ``REFUSALS`` by which a response begins, if any.

    Args:
        response: The text; marks before the first letter, letter case and the form of the
            apostrophe don't matter.

    Returns:
        The first pattern that fits, else None.

    Example:
        >>> refusal_pattern("I'm sorry, but I can't do that.")
        'sorry, but I cannot'
        >>> refusal_pattern("I'm sorry to hear that.")
    """
    start = re.sub(r"\s+", " ", response[: 2 * _BEGINNING]).replace("\u2019", "'").lower()
    start = re.sub(r"^\W+", "", start)[:_BEGINNING]
    if re.search(ANSWERS, start):
        return None
    found = (name for name, pattern in _BEGINNINGS.items() if pattern.match(start))
    return next(found, None)


def _check_policy(rows: pl.DataFrame, policy: str, *, n_asked: int) -> PolicyCheck:
    full = rows.filter(pl.col("response").str.strip_chars() != "")
    names = [name for name in map(refusal_pattern, full["response"]) if name is not None]
    n_prompts = rows["prompt_id"].n_unique()
    absent = pl.Series([None] * len(rows), dtype=pl.String)
    return PolicyCheck(
        policy=policy,
        n_responses=len(rows),
        n_prompts=n_prompts,
        n_missing=n_asked - n_prompts,
        coverage=n_prompts / n_asked,
        n_empty=len(rows) - len(full),
        n_duplicates=len(full) - full["response"].n_unique(),
        n_refusals=len(names),
        refusals={name: names.count(name) for name in REFUSALS if name in names},
        n_cut=int((rows.get_column("finish_reason", default=absent) == "length").sum()),
        n_reasoning=int(rows.get_column("reasoning", default=absent).is_not_null().sum()),
        chars=length_percentiles(full["response"]),
    )
