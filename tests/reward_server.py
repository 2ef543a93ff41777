"""Loopback servers that speak as vLLM, SGLang and OpenRLHF do, and misbehave when told to.

The score of a conversation is a digest of its token ids: a result in the wrong place, of the wrong
tokens or of another request can't pass for the right one.
"""

import hashlib
import json
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Ids = Sequence[int]

FAULTS = ("busy", "error", "hang", "drop", "cut", "count", "nan", "order", "foreign")
STORM = 5  # requests that are turned away after one that found the server busy
HANG = 3.0  # seconds; longer than the time-out of the tests that let it hang


def true_score(ids: Ids) -> float:
    """Between -10 and 10, different for different ids."""
    digest = hashlib.sha256(json.dumps(list(ids)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 * 20 - 10


@dataclass
class RewardServer:
    """What a server does and what it saw.

    Attributes:
        kind: "vllm", "sglang" or "openrlhf".
        to_ids: Messages or text -> token ids, for a server that is not sent ids.
        faults: Faults to choose from, with the share of requests that get one.
        share: That share, 0 to 1.
        seed: Of the choice.
        activation: "asked" follows the request as vLLM does; "always" and "never" ignore it.
        routes: Routes there are.
        key: Key it wants on /v1, as vLLM does.
        delay: Seconds that a reply takes.
        max_model_len: Longest conversation.
        refuse: Ids that get status 400.
    """

    kind: str = "vllm"
    to_ids: Callable[[Any], Ids] = lambda _: [1]
    faults: Sequence[str] = ()
    share: float = 0.2
    seed: int = 0
    activation: str = "asked"
    routes: Sequence[str] = ("/v1/models", "/version", "/classify", "/pooling")
    key: str | None = None
    delay: float = 0.0
    max_model_len: int = 128
    refuse: Ids = ()
    score: Callable[[Ids], float] = true_score
    extra_token: bool = False
    width: int = 1
    owner: str | None = None
    url: str = ""
    seen: Counter[tuple[int, ...]] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    suffered: Counter[str] = field(default_factory=Counter)
    last_reply: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.storm = 0

    def choose_fault(self) -> str | None:
        with self.lock:
            if self.storm > 0:
                self.storm -= 1
                return "busy"
            if not self.faults or self.chance.random() >= self.share:
                return None
            fault = self.chance.choice(list(self.faults))
            self.storm = STORM if fault == "busy" else 0
            self.suffered[fault] += 1
            return fault

    def cards(self) -> list[dict[str, Any]]:
        """What it lists on /v1/models."""
        owner = self.owner or self.kind
        return [{"id": "rm", "owned_by": owner, "max_model_len": self.max_model_len}]

    def spoil(self, reply: Any, fault: str) -> Any:
        """A reply with one thing wrong in it."""
        return spoil(reply, fault, self.chance)

    def reply(self, route: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        sequences = self.sequences(body)
        if any(list(ids) == list(self.refuse) for ids in sequences):
            return 400, {"error": {"message": "Token id 77 is out of vocabulary"}}
        longest = max(map(len, sequences))
        if longest > self.max_model_len and self.kind != "openrlhf":
            return 400, {"error": {"message": f"your prompt contains at least {longest} tokens"}}
        with self.lock:
            self.seen.update(map(tuple, sequences))
            self.bodies.append(body)
        scores = [self.activate(self.score(ids), body) for ids in sequences]
        reply = {"vllm": self.vllm, "sglang": self.sglang, "openrlhf": self.openrlhf}[self.kind]
        return 200, reply(route, body, sequences, scores)

    def sequences(self, body: dict[str, Any]) -> list[Ids]:
        if self.kind == "openrlhf":
            return [self.to_ids(text) for text in body["query"]]
        if "messages" in body:
            return [self.to_ids(body["messages"])]
        ids = body["input"] if self.kind == "vllm" else body["input_ids"]
        return ids if isinstance(ids[0], list) else [ids]

    def activate(self, score: float, body: dict[str, Any]) -> float:
        asked = self.kind == "vllm" and body.get("use_activation", True)
        on = {"asked": asked, "always": True, "never": False}[self.activation]
        return 1 / (1 + math.exp(-score)) if on else score

    def vllm(
        self, route: str, body: dict[str, Any], sequences: list[Ids], scores: list[float]
    ) -> Any:
        name = "probs" if route == "/classify" else "data"
        data = [
            {"index": at, "label": "LABEL_0", name: [score] * self.width}
            for at, score in enumerate(scores)
        ]
        n_read = sum(map(len, sequences)) + self.extra_token
        return {
            "id": f"classify-{body['request_id']}",
            "object": "list",
            "model": body["model"],
            "data": data,
            "usage": {"prompt_tokens": n_read, "total_tokens": n_read},
        }

    def sglang(
        self, _: str, body: dict[str, Any], sequences: list[Ids], scores: list[float]
    ) -> Any:
        names = body["rid"] if isinstance(body["rid"], list) else [body["rid"]]
        rows = [
            {
                "embedding": [score] * self.width,
                "meta_info": {"id": name, "prompt_tokens": len(ids) + self.extra_token},
            }
            for name, ids, score in zip(names, sequences, scores, strict=True)
        ]
        return rows if isinstance(body["rid"], list) else rows[0]

    def openrlhf(
        self, _: str, body: dict[str, Any], sequences: list[Ids], scores: list[float]
    ) -> Any:
        assert len(body["prompts"]) == len(sequences)
        return {"rewards": scores, "scores": scores, "extra_logs": {"dummy_scores": scores}}


def rows_of(reply: Any) -> list[Any]:
    """The list of results in a reply of any kind of server."""
    if isinstance(reply, dict):
        return next((reply[name] for name in ("data", "rewards") if name in reply), [reply])
    return list(reply)


def spoil(reply: Any, fault: str, chance: random.Random) -> Any:
    """A reply with one thing wrong in it."""
    reply = json.loads(json.dumps(reply))
    rows = rows_of(reply)
    if fault == "count":
        if isinstance(reply, dict) and "embedding" in reply:
            return [reply, reply]
        rows.append(rows[0]) if chance.random() < 0.5 else rows.pop()
    if fault == "order":
        chance.shuffle(rows)
        if isinstance(reply, list):
            reply = rows
    if fault == "nan":
        for name in ("probs", "data", "embedding"):
            if isinstance(rows[-1], dict) and name in rows[-1]:
                rows[-1][name] = [math.nan]
        if not isinstance(rows[-1], dict):
            rows[-1] = math.nan
    return reply


Server = TypeVar("Server", bound=RewardServer)


@contextmanager
def serve(server: Server) -> Iterator[Server]:
    """Runs it on a free port of 127.0.0.1 until the block ends."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _handler(server: RewardServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def answer(self, status: int, reply: Any, **headers: str) -> None:
            content = json.dumps(reply).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            server.keys.append(self.headers.get("Authorization"))
            if self.path not in server.routes:
                return self.answer(404, {"detail": "Not Found"})
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                return self.answer(401, {"error": f"wrong key {self.headers['Authorization']}"})
            if self.path == "/version":
                return self.answer(200, {"version": "0.32.0"})
            if self.path != "/v1/models":
                return self.answer(405, {"detail": "Method Not Allowed"})
            return self.answer(200, {"object": "list", "data": server.cards()})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if len(content) < int(self.headers["Content-Length"]):
                return None  # the client was killed while it wrote
            body = json.loads(content)
            server.keys.append(self.headers.get("Authorization"))
            if self.path not in server.routes:
                return self.answer(404, {"detail": "Not Found"})
            fault = server.choose_fault()
            if fault == "busy":
                return self.answer(429, {"error": "too many"}, Retry_After="0.02")
            if fault == "error":
                return self.answer(500, {"error": "out of memory"})
            if fault == "hang":
                time.sleep(HANG)
                self.close_connection = True
                return None
            time.sleep(server.delay)
            status, reply = server.reply(self.path, body)
            if status != 200:
                return self.answer(status, reply)
            if fault == "foreign" and server.last_reply is not None:
                return self.answer(200, server.last_reply)
            server.last_reply = reply
            if fault in ("drop", "cut"):
                return self.break_off(json.dumps(reply).encode(), drop=fault == "drop")
            return self.answer(200, server.spoil(reply, fault) if fault else reply)

        def break_off(self, content: bytes, *, drop: bool) -> None:
            half = content[: len(content) // 2]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) if drop else len(half)))
            self.end_headers()
            self.wfile.write(half)
            self.close_connection = drop

    return Handler
