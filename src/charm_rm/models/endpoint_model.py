"""A reward model behind an address: found, asked for raw scores, and checked before it is used.

Where a tokenizer is at hand, conversations become token ids here, by the same rules as for a local
model, and ids are what is sent. Without one, vLLM is sent messages and applies the template that
it has: a BOS token, an injected system prompt and the end of the turn are then out of our hands.

`charm_rm.models.endpoint_probe.find_model` makes one, once it has checked the server.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charm_rm.data.parts import Setting
from charm_rm.data.prompts import Message
from charm_rm.data.tables import DataError
from charm_rm.models.endpoints import (
    BadReplyError,
    Connection,
    Endpoint,
    connect,
    run,
    work_through,
)
from charm_rm.models.reward_servers import Item, RewardServer, Scored
from charm_rm.models.text_rules import TextRules

RECUT = 8  # ids beyond the cut that may be given up so that the rest has a text


@dataclass(frozen=True)
class EndpointModel:
    """A served reward model: call it with conversations, get score points, shape (n,).

    It has what `charm_rm.models.scoring.score_responses` asks of a model; for many responses
    `charm_rm.models.endpoint_scoring.score_at_endpoint` keeps the server busier.

    Attributes:
        name: What the server calls it.
        endpoint: Where it is served.
        server: The kind of server, and the route.
        version: Of the server, where it says so.
        max_length: Longest conversation in tokens that is scored whole; None where unknown.
        rules: How conversations become token ids here; None where the server does it.
        echoes: Whether replies carry the id of their request, and must.
        checked: What the probe showed, in words.
        warnings: What a user should know, one line each.
    """

    name: str
    endpoint: Endpoint
    server: RewardServer
    max_length: int | None = None
    rules: TextRules | None = None
    version: str | None = None
    echoes: bool = False
    checked: str = ""
    warnings: tuple[str, ...] = ()

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> NDArray[np.float64]:
        """Score points of conversations, shape (n,)."""
        return self._score(self.make_items(conversations))

    @property
    def unit(self) -> str:
        """What a run counts: tokens, or conversations where the server makes the tokens."""
        return "tokens" if self.rules else "conversations"

    @property
    def kind(self) -> str:
        """Kind of server, its version where known, and the route."""
        return " ".join(filter(None, [self.server.name, self.version, self.server.route]))

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of conversations, of full length.

        Raises:
            ValueError: If the server applies its own template.
        """
        if self.rules is None:
            raise ValueError("the server turns text into tokens itself; give a tokenizer")
        return self.rules.encode(conversations)

    def score_ids(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        batch_tokens: int = 0,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Score points of encoded conversations, in their order, shape (n,).

        Args:
            sequences: Token ids, at most ``max_length`` each.
            batch_tokens: Not used: the server makes its own batches.
        """
        return self._score([self._item(ids, ()) for ids in sequences])

    def make_items(self, conversations: Sequence[Sequence[Message]]) -> list[Item]:
        """What is sent for each conversation, cut to ``max_length`` where that is done here."""
        if self.rules is None:
            return [Item(_digest(messages), messages) for messages in conversations]
        sequences = self.rules.encode(conversations)
        return [self._item(*pair) for pair in zip(sequences, conversations, strict=True)]

    async def request(self, connection: Connection, items: Sequence[Item]) -> list[Scored]:
        """One request for the scores of items, in their order.

        Raises:
            RequestFailedError: If the server refuses, or all attempts failed.
        """

        def read(reply: Any, request_id: str) -> list[Scored]:
            if self.echoes and request_id not in self.server.echo(reply):
                raise BadReplyError("it answers another request")
            return self.server.read(reply, items, request_id)

        return await connection.send(
            self.server.route, read, body=lambda name: self.server.body(self.name, items, name)
        )

    def batches(self, items: Sequence[Item]) -> list[list[Item]]:
        """Items in groups that go into one request each, longest first."""
        size = self.server.per_request if self.rules else 1
        ordered = sorted(items, key=_length, reverse=True)
        return [ordered[at : at + size] for at in range(0, len(ordered), size)]

    def fingerprint(self) -> dict[str, Setting]:
        """What decides the scores, as far as it is known here, to be compared on a resume."""
        settings: dict[str, Setting] = {
            "reward_model": self.name,
            "endpoint": self.endpoint.url,
            "api": f"{self.server.name} {self.server.route}",
            "max_length": self.max_length,
            "template": "the server's",
        }
        if self.rules is None:
            return settings
        digest = hashlib.sha256(self.rules.template.encode()).hexdigest()[:16]
        return settings | {
            "template": digest,
            "bos": self.rules.bos,
            "system_prompt": self.rules.system_prompt,
        }

    def _item(self, ids: Sequence[int], messages: Sequence[Message]) -> Item:
        suffix = self.rules.suffix if self.rules else ()
        kept = [*ids[: self.max_length], *suffix]
        text = None
        if self.rules and self.server.takes_text:
            cut = len(ids) + len(suffix) > len(kept)
            kept, text = _as_text(kept, self.rules, spare=RECUT if cut else 0)
        sent = np.array(kept, dtype=np.int32)
        key = hashlib.sha256(sent.tobytes()).hexdigest()[:32]
        return Item(key, messages if text else (), sent, text, n_tokens=len(ids))

    def _score(self, items: Sequence[Item]) -> NDArray[np.float64]:
        async def all_of_them() -> dict[str, float]:
            scores: dict[str, float] = {}

            async def work(batch: list[Item]) -> list[list[Item]]:
                results = await self.request(connection, batch)
                scores.update((i.key, score) for i, (score, _) in zip(batch, results, strict=True))
                return []

            async with connect(self.endpoint) as connection:
                distinct = {item.key: item for item in items}
                batches = self.batches(list(distinct.values()))
                await work_through(batches, work, n_workers=self.endpoint.concurrency)
            return scores

        scores = run(all_of_them())
        return np.array([scores[item.key] for item in items], dtype=np.float64)


def _as_text(ids: list[int], rules: TextRules, *, spare: int) -> tuple[list[int], str]:
    """Ids and the text for them; after a cut, up to ``spare`` more ids go to meet a whole token."""
    body = ids[: len(ids) - len(rules.suffix)]
    for end in range(len(body), max(len(body) - spare, 1) - 1, -1):
        whole = [*body[:end], *rules.suffix]
        text = rules.text_of(whole)
        if text is not None:
            return whole, text
    raise DataError(
        "no text encodes to the tokens of a conversation, and this server takes text alone; "
        "serve the model with vLLM or SGLang, which take tokens"
    )


def _length(item: Item) -> int:
    """Tokens, or characters where the server makes the tokens."""
    if item.ids is not None:
        return len(item.ids)
    return sum(len(message["content"]) for message in item.messages)


def _digest(messages: Sequence[Message]) -> str:
    text = json.dumps([[m["role"], m["content"]] for m in messages])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
