"""What a reward model can score, told without one."""

import pytest

from charm_rm.data.conversations import check_conversation
from charm_rm.data.tables import DataError

HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "kind world"}]
EMPTY = [HELLO[0], {"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "no messages"),
        ([{"role": "user", "content": "hello"}], "ends with 'user'"),
        ([{"role": "human", "content": "hello"}, HELLO[1]], "message 0 has role 'human'"),
        ([{"content": "hello"}, HELLO[1]], "message 0 has role None"),
        ([{"role": "user", "content": ""}, HELLO[1]], r"message 0 \(user\) is empty"),
        ([{"role": "user", "content": " \n"}, HELLO[1]], r"message 0 \(user\) is empty"),
        ([HELLO[0], EMPTY[1], *HELLO], r"message 1 \(assistant\) is empty"),
        ([HELLO[0], {"role": "assistant", "content": None}], "content of message 1 is None"),
        ([HELLO[0], {"role": "assistant", "content": "\ud83d"}], "holds half a character"),
        ([HELLO[0], HELLO[1], HELLO[1]], "the prompt ends with 'assistant', and a response"),
    ],
)
def test_a_malformed_conversation_is_refused_by_name(
    messages: list[dict[str, str]], complaint: str
) -> None:
    with pytest.raises(DataError, match=f"^row 7: .*{complaint}"):
        check_conversation(messages, where="row 7")


def test_an_empty_response_and_control_characters_are_texts() -> None:
    check_conversation(EMPTY, where="row 7")
    check_conversation([HELLO[0], {"role": "assistant", "content": "a\0b\u202e"}], where="row 7")
