"""Requests, and what tiny random policies make of them."""

from collections.abc import Iterable
from pathlib import Path

from charm_rm.data.prompts import as_messages
from charm_rm.models.local_policy import LocalPolicy
from charm_rm.models.policies import Completion, Request, Sampling, request_seed

GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
DRAWN = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=24)
N_WORDS = 56  # of the tokenizers that know whole words
CHATML_ANSWER = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def requests_of(n: int, *, seed: int = 0, system: str | None = None) -> list[Request]:
    """Prompts of 1 to 29 words."""
    before = [{"role": "system", "content": system}] if system else []
    asked = []
    for at in range(n):
        text = " ".join(f"w{(at * 7 + word) % 40}" for word in range(1 + at * 5 % 29))
        asked.append(
            Request(f"p{at}", 0, (*before, *as_messages(text)), request_seed(seed, f"p{at}", 0))
        )
    return asked


def answers_of(policy: LocalPolicy, requests: Iterable[Request]) -> dict[str, Completion]:
    """Outcomes by prompt, each a response and the only one."""
    found = {}
    for outcome in policy(requests):
        assert isinstance(outcome, Completion), outcome
        assert outcome.request.prompt_id not in found
        found[outcome.request.prompt_id] = outcome
    return found


def texts_of(policy: LocalPolicy, requests: Iterable[Request]) -> dict[str, str]:
    """Responses by prompt."""
    return {name: one.text for name, one in answers_of(policy, requests).items()}


def with_answer_template(folder: Path) -> Path:
    """The directory of a model, whose template then writes the header of an answer."""
    (folder / "chat_template.jinja").write_text(CHATML_ANSWER)
    return folder
