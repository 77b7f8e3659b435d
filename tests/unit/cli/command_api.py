"""A gateway's API as commands see it: answers from a table, keeps what was asked."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Api:
    """Answers from a table; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, Any, str]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                raw_body = self.rfile.read(length)
                is_lines = self.headers.get("content-type") == "application/x-ndjson"
                body = raw_body.splitlines() if is_lines else json.loads(raw_body) if length else None
                line = f"{self.command} {self.path}"
                api.asked.append((line, body, self.headers.get("authorization", "")))
                missing = (
                    404,
                    {"error": {"code": 35, "name": "not_found", "message": "No such resource.", "field": ""}},
                )
                queue = api.answers.get(line, [missing])
                status, answer = queue.pop(0) if len(queue) > 1 else queue[0]
                raw = (
                    answer if isinstance(answer, bytes) else json.dumps(answer).encode() if answer is not None else b""
                )
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def on(self, line: str, *answers: Any, status: int = 200) -> None:
        self.answers[line] = [(status, answer) for answer in answers]
