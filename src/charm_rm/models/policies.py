"""What every policy is to this package: a plain callable, requests -> outcomes.

Two are built in, a local model (`charm_rm.models.local_policy`) and a server
(`charm_rm.models.endpoint_policy`); a user's own needs no class of ours. Outcomes come in the order
in which they are finished, each once, and name the request that they answer. This module runs no
model and writes no file.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from charm_rm.data.prompts import Message

SEED_BITS = 31  # servers read seeds as signed 32-bit numbers


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn; temperature and top_p as in the paper (section 5.1).

    Attributes:
        temperature: Divides the logits; 0 is greedy decoding.
        top_p: Nucleus: the smallest set of tokens with at least this probability is drawn from.
        max_new_tokens: Longest response in tokens, reasoning included.
        alternatives: How many of the likeliest first tokens to report; 0 for none.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 2048
    alternatives: int = 0


@dataclass(frozen=True)
class Request:
    """One response that is wanted.

    Attributes:
        prompt_id: Id of the prompt.
        sample: Which of the responses to that prompt, from 0.
        messages: The conversation up to the user's last turn, with the system prompt if any.
        seed: What this response alone is drawn with, so that neither the company it is drawn in
            nor a resumed run changes it; see `request_seed`.
    """

    prompt_id: str
    sample: int
    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """What a policy wrote, untrusted text.

    Attributes:
        request: What it answers.
        text: The response as written; reasoning in ``<think>`` tags may still stand in front.
        finish_reason: "stop", "length", or what a server gave; None where it gave none.
        reasoning: Reasoning that a server hands out apart from the text.
        n_prompt_tokens: Tokens of the conversation, where known.
        n_tokens: Tokens written, reasoning included, where known.
        first_token: Likeliest first tokens -> log-probability, before any temperature; None where
            they were not asked for or the policy does not tell them.
    """

    request: Request
    text: str
    finish_reason: str | None
    reasoning: str | None = None
    n_prompt_tokens: int | None = None
    n_tokens: int | None = None
    first_token: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Failure:
    """A request that ended without a response.

    Attributes:
        request: What was asked.
        reason: One line for ``failures.jsonl``, without keys.
    """

    request: Request
    reason: str


Policy = Callable[[Iterable[Request]], Iterator[Completion | Failure]]


def request_seed(seed: int, prompt_id: str, sample: int) -> int:
    """The seed of one response, from the run's seed and what names the response.

    Args:
        seed: Seed of the run.
        prompt_id: Id of the prompt.
        sample: Which of its responses, from 0.

    Returns:
        A number in [0, 2^31).

    Example:
        >>> request_seed(0, "p1", 0) == request_seed(0, "p1", 0) != request_seed(0, "p1", 1)
        True
    """
    name = f"{seed}\n{sample}\n{prompt_id}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:4], "big") >> (32 - SEED_BITS)
