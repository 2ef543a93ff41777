"""A loopback server that speaks OpenAI's chat API, and misbehaves when told to.

What it answers is a function of the conversation and, unless it is greedy, of the seed: an answer
to another request can't pass for the right one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_server import RewardServer

CHAT = "/v1/chat/completions"
FAULTS = ("busy", "error", "hang", "drop", "cut", "choices", "text", "reason")


def true_answer(messages: Sequence[Mapping[str, str]], seed: int | None) -> str:
    """What the policy says to a conversation, different for different ones."""
    asked = json.dumps([[one["role"], one["content"]] for one in messages] + [seed])
    return f"answer {hashlib.sha256(asked.encode()).hexdigest()[:24]}"


@dataclass
class PolicyServer(RewardServer):
    """What the server does beside `RewardServer`.

    Attributes:
        models: What it lists.
        serves: Models that it has, should they be others.
        refuses: Last turn -> status and message that it gets.
        slots: Requests that it works on at once; it turns others away, and has no other fault.
        messages: Last turn -> what the message of its reply has beside or for the text.
        finish: Last turn -> finish_reason; "stop" for others.
        usage: Whether it counts tokens.
    """

    routes: Sequence[str] = ("/v1/models", CHAT)
    models: Sequence[str] = ("m",)
    serves: Sequence[str] | None = None
    refuses: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    slots: int | None = None
    messages: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    finish: Mapping[str, Any] = field(default_factory=dict)
    usage: bool = True
    answered: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    most_under_way: int = 0

    def cards(self) -> list[dict[str, Any]]:
        return [{"id": name, "object": "model", "owned_by": "vllm"} for name in self.models]

    def reply(self, _: str, body: dict[str, Any]) -> tuple[int, Any]:
        asked = body["messages"][-1]["content"]
        with self.lock:
            self.under_way -= self.slots is not None
        if body["model"] not in (self.serves or self.models):
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if asked in self.refuses:
            status, words = self.refuses[asked]
            return status, {"error": {"message": words}} if isinstance(words, str) else words
        seed = None if body.get("temperature") == 0 else body.get("seed")
        text = true_answer(body["messages"], seed)
        with self.lock:
            self.bodies.append(body)
            self.answered[text] += 1
        message = {"role": "assistant", "content": text} | self.messages.get(asked, {})
        reply: dict[str, Any] = {
            "id": "chatcmpl-1",
            "model": f"{body['model']}-2026",
            "choices": [
                {"index": 0, "message": message, "finish_reason": self.finish.get(asked, "stop")}
            ],
        }
        if self.usage:
            n_read = sum(len(one["content"].split()) for one in body["messages"])
            reply["usage"] = {"prompt_tokens": n_read, "completion_tokens": 5, "total_tokens": 0}
        return 200, reply

    def spoil(self, reply: Any, fault: str) -> Any:
        if fault == "choices":
            return reply | {"choices": []}
        choice = dict(reply["choices"][0])
        if fault == "text":
            choice["message"] = {"role": "assistant", "content": ["half"]}
        if fault == "reason":
            text = choice["message"]["content"]
            choice |= {"message": {"content": text[:9]}, "finish_reason": "abort"}
        return reply | {"choices": [choice]}

    def choose_fault(self) -> str | None:
        if self.slots is None:
            return super().choose_fault()
        with self.lock:
            if self.under_way >= self.slots:
                self.suffered["busy"] += 1
                return "busy"
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            return None
