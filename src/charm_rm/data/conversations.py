"""What a conversation must be before a reward model scores it, wherever that model runs."""

from collections.abc import Sequence

from charm_rm.data.prompts import Message
from charm_rm.data.tables import DataError

ROLES = ("system", "user", "assistant")


def check_conversation(messages: Sequence[Message], *, where: str) -> None:
    """A conversation that a reward model can score, or one line that says why not.

    Args:
        messages: Of roles system, user and assistant; the last is the assistant's and may be empty.
        where: What to call the conversation in the message.

    Raises:
        DataError: If it is empty, does not end with one message of the assistant, has another
            role, a message before the last one has no text, or a text is no Unicode.

    Example:
        >>> check_conversation([], where="row 3")
        Traceback (most recent call last):
        ...
        charm_rm.data.tables.DataError: row 3: no messages; give a prompt and a response
    """
    if not messages:
        raise DataError(f"{where}: no messages; give a prompt and a response")
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(
                f"{where}: message {number} has role {role!r}; use {', '.join(ROLES[:-1])} "
                f"or {ROLES[-1]}"
            )
        if not isinstance(content, str):
            raise DataError(f"{where}: content of message {number} is {content!r}; give a text")
        if not _is_unicode(content):
            raise DataError(
                f"{where}: message {number} ({role}) holds half a character (a lone surrogate); "
                "read its file as UTF-8"
            )
        if number < len(messages) - 1 and not content.strip():
            raise DataError(
                f"{where}: message {number} ({role}) is empty; give its text or drop the row"
            )
    if messages[-1]["role"] != "assistant":
        raise DataError(
            f"{where}: ends with {messages[-1]['role']!r}; "
            "a scored conversation ends with 'assistant'"
        )
    if len(messages) > 1 and messages[-2]["role"] == "assistant":
        raise DataError(
            f"{where}: the prompt ends with 'assistant', and a response follows; "
            "take the old response out of the prompt"
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
