"""Reasoning text in responses: what a policy thinks aloud before it answers.

It stands in ``<think>`` tags at the start of the response. Reward models score the answer alone, so
the two are kept apart. A tag that the answer talks about, further on, is left where it is.
"""

import re

OPEN, CLOSE = "<think>", "</think>"
# The template may have opened the tag in the prompt: then the text has only its end, on a line
# that begins with it.
_END_ALONE = re.compile(r"^</think>[ \t]*(?:\n|\Z)", re.MULTILINE)


def split_reasoning(text: str) -> tuple[str | None, str]:
    """Reasoning and answer of a response.

    Args:
        text: The response as the policy wrote it.

    Returns:
        The reasoning without its tags and outer blanks, None where there is none, and the answer.
        Reasoning that was not closed, because the response was cut, leaves an empty answer. A
        response without reasoning is returned as it stands.

    Example:
        >>> split_reasoning("<think>2 + 2 is 4.</think> It is 4.")
        ('2 + 2 is 4.', 'It is 4.')
        >>> split_reasoning("Write <think> before it.")
        (None, 'Write <think> before it.')
    """
    start = text.lstrip()
    if start.startswith(OPEN):
        reasoning, _, answer = start.removeprefix(OPEN).partition(CLOSE)
        return reasoning.strip(), answer.lstrip()
    end = _END_ALONE.search(text)
    if end and OPEN not in text[: end.start()]:
        return text[: end.start()].strip(), text[end.end() :].lstrip()
    return None, text
