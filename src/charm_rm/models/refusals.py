"""What a model server says when it does not answer: its words, and how long it asks to wait."""

import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2


def words_of(reply: Any) -> str | None:
    """The message of an error, where servers put one into JSON.

    Args:
        reply: Parsed JSON.

    Example:
        >>> words_of({"error": {"message": "overloaded", "code": 502}})
        'overloaded'
    """
    try:
        error = reply.get("error", reply.get("detail"))
        said = error["message"] if isinstance(error, dict) else error
    except (KeyError, AttributeError):
        return None
    return said if isinstance(said, str) else None


def words_of_refusal(response: httpx2.Response) -> str:
    """What a refusal says: the message of its error, else all of it.

    Args:
        response: Of a status that is no 200.

    Example:
        >>> words_of_refusal(httpx2.Response(400, text='{"detail": "too long"}'))
        'too long'
    """
    try:
        said = words_of(response.json())
    except (ValueError, RecursionError):
        said = None
    return response.text if said is None else said


def seconds_to_wait(value: str | None) -> float:
    """Seconds of a Retry-After header, which gives a number or a date; 0 when it gives neither.

    Args:
        value: The header; None where there is none.

    Example:
        >>> seconds_to_wait("2.5"), seconds_to_wait(None)
        (2.5, 0.0)
    """
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return max(0.0, seconds) if not math.isnan(seconds) else 0.0
