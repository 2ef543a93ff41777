"""How a generative judge is asked which of two answers is better, and how its reply is read (A.3).

A format is an instruction, what follows the two answers, and a function that reads the reply. A
reply that says nothing of the kind is no verdict: it is counted as invalid, never guessed.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from charm_rm.data.prompts import Message
from charm_rm.data.reasoning import split_reasoning

Verdict = Literal["first", "second", "tie"]

TASK = (
    "You compare two answers to a user's request and say which one serves the user better. Weigh "
    "correctness first, then helpfulness, clarity and harmlessness. Neither length, nor layout, "
    "nor the order in which the answers stand is a merit."
)
VERDICTS: Mapping[str, Verdict] = MappingProxyType({"A": "first", "B": "second", "T": "tie"})
SCALE: Mapping[str, Verdict] = MappingProxyType(
    {"A>>B": "first", "A>B": "first", "A=B": "tie", "B>A": "second", "B>>A": "second"}
)
_WORDS = r"(?:(?:[Tt]he )?(?:better )?(?:[Aa]nswer|[Vv]erdict)\b[\s:]*(?:is\b)?)?"
_LETTER = re.compile(rf"\W*{_WORDS}\W*(A|B|T|[Tt]ie)\b\W*")
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*([ABT])\s*\}")
_BRACKETS = re.compile(r"\[\[\s*([AB]\s*(?:>>|>|=)\s*[AB])\s*\]\]")


@dataclass(frozen=True)
class JudgeFormat:
    """One way to ask.

    Attributes:
        name: Its name in commands and files.
        closing: What stands below the two answers.
        read: The reply, without its reasoning -> the verdict, or None.
        max_new_tokens: Tokens that a reply may take, for judges that do not think aloud.
    """

    name: str
    closing: str
    read: Callable[[str], Verdict | None]
    max_new_tokens: int


def read_letter(text: str) -> Verdict | None:
    r"""A reply that is one letter, or a few words around it.

    Args:
        text: The reply.

    Example:
        >>> read_letter("**B**."), read_letter("Answer: A"), read_letter("A good question!")
        ('second', 'first', None)
    """
    found = _LETTER.fullmatch(text.strip())
    return VERDICTS[found[1][0].upper()] if found else None


def read_boxed(text: str) -> Verdict | None:
    r"""A reply whose last ``\boxed{}`` holds the letter.

    Args:
        text: The reply.

    Example:
        >>> read_boxed(r"It might be \boxed{A}, but no: \boxed{B}")
        'second'
    """
    found = _BOXED.findall(text)
    return VERDICTS[found[-1]] if found else None


def read_scale(text: str) -> Verdict | None:
    """A reply whose last double brackets hold one of five grades, such as ``[[A>>B]]``.

    Args:
        text: The reply.

    Example:
        >>> read_scale("[[A>B]]"), read_scale("My verdict: [[A=B]]"), read_scale("A>B")
        ('first', 'tie', None)
    """
    found = _BRACKETS.findall(text)
    return SCALE.get(re.sub(r"\s", "", found[-1])) if found else None


def read_json(text: str) -> Verdict | None:
    """A reply that is, or holds, one JSON object with the letter under ``verdict``.

    Args:
        text: The reply.

    Example:
        >>> read_json('{"reason": "It is right.", "verdict": "A"}'), read_json("A")
        ('first', None)
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):  # brackets without end
        return None
    letter = found.get("verdict") if isinstance(found, dict) else None
    return VERDICTS.get(letter) if isinstance(letter, str) else None


FORMATS: Mapping[str, JudgeFormat] = MappingProxyType(
    {
        one.name: one
        for one in (
            JudgeFormat(
                "letter",
                "Which answer is better? Reply with one letter and nothing else: A, B, or T for a "
                "tie.",
                read_letter,
                8,
            ),
            JudgeFormat(
                "boxed",
                "Which answer is better? Think it through step by step. Then end with your "
                r"verdict: \boxed{A}, \boxed{B}, or \boxed{T} for a tie.",
                read_boxed,
                1024,
            ),
            JudgeFormat(
                "scale",
                "Which answer is better? Explain briefly. Then end with exactly one of these: "
                "[[A>>B]] if A is much better, [[A>B]] if A is slightly better, [[A=B]] if they "
                "are equal, [[B>A]] if B is slightly better, [[B>>A]] if B is much better.",
                read_scale,
                1024,
            ),
            JudgeFormat(
                "json",
                "Which answer is better? Reply with one JSON object and nothing else: "
                '{"reason": "a short text", "verdict": "LETTER"}, the letter A, B, or T '
                "for a tie.",
                read_json,
                512,
            ),
        )
    }
)


def read_first_token(
    log_probabilities: Mapping[str, float],
) -> tuple[Verdict | None, float | None]:
    """The verdict that the first token of a reply to ``letter`` is likeliest to be.

    Args:
        log_probabilities: Likely first tokens -> natural logarithm of their probability.

    Returns:
        The likeliest of A, B and T, blanks around them left aside, and the probability of A among A
        and B: where one of the two is not listed, its probability is taken as that of the least
        likely token listed. Both are None where neither is listed.

    Example:
        >>> verdict, p_first = read_first_token({"A": -0.5, " B": -1.5, "The": -3.0})
        >>> verdict, round(p_first, 3)
        ('first', 0.731)
    """
    found = dict.fromkeys(VERDICTS, 0.0)
    for token, log_probability in log_probabilities.items():
        if token.strip() in found:
            found[token.strip()] += math.exp(log_probability)
    if not (found["A"] or found["B"]):
        return ("tie", None) if found["T"] else (None, None)
    least = math.exp(min(log_probabilities.values()))
    first, second = (found[letter] or min(least, found["A"] + found["B"]) for letter in "AB")
    likeliest = max(found, key=lambda letter: found[letter])
    return VERDICTS[likeliest], first / (first + second)


def ask_judge(
    prompt: Sequence[Message], first: str, second: str, *, how: JudgeFormat
) -> list[Message]:
    """The conversation that asks a judge about two answers.

    Args:
        prompt: What was answered; a system turn and earlier turns are shown too.
        first: The answer that is called A.
        second: The answer that is called B.
        how: The format.

    Returns:
        A system and a user turn.

    Example:
        >>> turns = ask_judge(
        ...     [{"role": "user", "content": "Hi"}], "Yo", "Hey", how=FORMATS["letter"]
        ... )
        >>> turns[1]["content"].splitlines()[:3]
        ['[Request]', 'Hi', '[End of request]']
    """
    asked = prompt[0]["content"]
    if len(prompt) > 1:
        asked = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
    shown = [
        f"[Request]\n{asked}\n[End of request]",
        f"[Answer A]\n{first}\n[End of answer A]",
        f"[Answer B]\n{second}\n[End of answer B]",
    ]
    return [
        {"role": "system", "content": TASK},
        {"role": "user", "content": "\n\n".join([*shown, how.closing])},
    ]


def read_verdict(text: str, *, how: JudgeFormat) -> Verdict | None:
    """The verdict of a reply, its reasoning put aside.

    Args:
        text: What the judge wrote.
        how: The format that it was asked in.

    Returns:
        ``"first"`` where A is better; None where the reply is no verdict.

    Example:
        >>> read_verdict("<think>B is wrong.</think>A", how=FORMATS["letter"])
        'first'
    """
    # A judge that repeats the question has not answered it.
    return how.read(split_reasoning(text)[1].replace(how.closing, ""))
