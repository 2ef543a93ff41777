"""Prompts: what a user says to a policy, as a list of messages, and the id of a prompt."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from charm_rm.data.tables import DataError

Message = dict[str, str]


def as_messages(prompt: str | Sequence[dict[str, Any]]) -> list[Message]:
    """A prompt as messages; a plain string is read as one user turn.

    Args:
        prompt: A string, or messages with ``role`` and ``content``.

    Returns:
        Messages with exactly these two keys.

    Raises:
        DataError: If the prompt is neither, is empty, or a message lacks a key or has no text.

    Example:
        >>> as_messages("Hello")
        [{'role': 'user', 'content': 'Hello'}]
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence) or not prompt:
        raise DataError(f"prompt is {prompt!r}; give a string or a list of messages")
    messages = []
    for message in prompt:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"message {message!r} in a prompt; it needs 'role' and 'content'")
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise DataError(f"message {message!r} in a prompt; 'role' and 'content' must be texts")
        messages.append({"role": message["role"], "content": message["content"]})
    return messages


def prompt_digest(messages: Sequence[Message]) -> str:
    """Id of a prompt that came without one: the same text has the same id everywhere.

    Args:
        messages: As `as_messages` returns them.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of the messages as compact JSON.

    Example:
        >>> prompt_digest(as_messages("Hello"))
        'b0ae8b0f316e2f14'
    """
    pairs = [[message["role"], message["content"]] for message in messages]
    text = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]
