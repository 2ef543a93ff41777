"""A chat endpoint on this machine that misbehaves as it is told, for tests of categories."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from charm_rm.models.endpoint_categories import FIRST_QUESTION

LONGEST_HANG = 10.0  # seconds; the server lets go by itself


class Server:
    """An endpoint that answers as it is told, and remembers what it was asked.

    Behaviours are tried in turn for each request about a prompt: a status with a reply,
    ``"hang"``, or a text to answer with. When they are used up it answers with ``answer``. The
    first question of a run is answered and not counted, unless ``shy``; whatever request holds a
    field that is in ``refuses`` gets a 400.
    """

    def __init__(self) -> None:
        self.behaviours: list[tuple[int, str] | str] = []
        self.answer = json.dumps({"category": "Others"})
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.shy = False
        self.refuses: set[str] = set()
        self.first_requests: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.let_go = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                behaviour = server.begin(body, self.headers["Authorization"])
                try:
                    server.reply(self, behaviour)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client lost its patience, as it should
                finally:
                    with server.lock:
                        server.at_once -= 1

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler

    def begin(self, body: dict[str, Any], key: str) -> tuple[int, str] | str:
        first = body["messages"][-1]["content"].endswith(FIRST_QUESTION)
        with self.lock:
            self.keys.add(key)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            (self.first_requests if first else self.requests).append(body)
            if self.refuses & {*body, *(message["role"] for message in body["messages"])}:
                return 400, "no such field here"
            if first and not self.shy:
                return self.answer
            return self.behaviours.pop(0) if self.behaviours else self.answer

    def reply(self, handler: BaseHTTPRequestHandler, behaviour: tuple[int, str] | str) -> None:
        if behaviour == "hang":
            self.let_go.wait(LONGEST_HANG)
            return
        if isinstance(behaviour, tuple):
            status = behaviour[0]
            document: dict[str, Any] = {"error": {"message": behaviour[1]}}
        else:
            message = {"role": "assistant", "content": behaviour}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            status = 200
            document = {"id": "1", "object": "chat.completion", "choices": [choice]}
        content = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Retry-After-Ms", "5")
        handler.end_headers()
        handler.wfile.write(content)
