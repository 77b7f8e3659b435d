"""A provider of the load test: pushes to one, to a tag, to a version, in bursts; looks up; reads receipts."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import gevent
from locust import HttpUser, between, task

from load.scenarios.device import TAGS, VERSIONS
from load.scenarios.inbox import Misbehaved
from load.scenarios.tokens import LIVE

#: a connected device has acked by then
ACKED_S = 10.0
BURST = 100


class ProviderUser(HttpUser):
    """An app server; its key comes from HELIOGRAPH_KEY."""

    wait_time = between(0.2, 1.0)

    def on_start(self) -> None:
        self.client.headers["authorization"] = f"Bearer {os.environ['HELIOGRAPH_KEY']}"
        self.cursor = 0

    def _push(self, name: str, target: dict[str, Any], **fields: Any) -> str | None:
        body = {"target": target, "text": "x" * 100, **fields}
        with self.client.post("/v1/push", json=body, name=name, catch_response=True) as answer:
            if answer.status_code == 404 and "token" in target:
                answer.success()  # its device was gone for good a moment ago
                return None
            if answer.status_code != 201:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
                return None
            return str(answer.json()["id"])

    @task(20)
    def push_to_one_and_follow_it(self) -> None:
        token = LIVE.pick()
        if token is None:
            return
        link = LIVE.links.get(token)
        began = time.perf_counter()
        push = self._push("push: token", {"token": token}, data={"chat": 7})
        if push is None:
            return
        end = time.monotonic() + ACKED_S
        state = ""
        while time.monotonic() < end:
            with self.client.get(f"/v1/push/{push}", name="look-up", catch_response=True) as answer:
                if answer.status_code != 200:
                    answer.failure(f"{answer.status_code}: {answer.text[:200]}")
                    return
                state = answer.json()["deliveries"][0]["state"]
            if state == "acked":
                break
            if LIVE.links.get(token) != link:
                return  # the device dropped meanwhile: it gets it when it is back
            gevent.sleep(0.05)
        error = None if state == "acked" else Misbehaved(f"still {state} after {ACKED_S:g} s on a link that is there")
        self.environment.events.request.fire(
            request_type="push",
            name="acked by its device",
            response_time=(time.perf_counter() - began) * 1000,
            response_length=0,
            exception=error,
            context={},
        )

    @task(3)
    def push_to_an_alias(self) -> None:
        self._push("push: alias", {"alias": f"user-{1 + int(time.time() * 1000) % max(1, len(LIVE))}"})

    @task(2)
    def push_to_a_tag(self) -> None:
        self._push("push: tag", {"tag": TAGS[int(time.time()) % len(TAGS)]}, urgency="low")

    @task(1)
    def push_to_a_version(self) -> None:
        self._push("push: version", {"versions": f"=={VERSIONS[int(time.time()) % len(VERSIONS)]}"}, ttl=60)

    @task(4)
    def burst(self) -> None:
        tokens = [token for _ in range(BURST) if (token := LIVE.pick()) is not None]
        if not tokens:
            return
        body = "\n".join(json.dumps({"target": {"token": token}, "text": "burst"}) for token in tokens)
        headers = {"content-type": "application/x-ndjson"}
        with self.client.post(
            "/v1/push/batch", data=body, headers=headers, name="push: batch", catch_response=True
        ) as answer:
            lines = [json.loads(line) for line in answer.text.splitlines()] if answer.status_code == 200 else []
            refused = [line for line in lines if line["status"] not in (201, 404)]
            if len(lines) != len(tokens) or refused:
                answer.failure(f"{answer.status_code}, {len(lines)} of {len(tokens)} results, refused: {refused[:1]}")

    @task(2)
    def read_receipts(self) -> None:
        with self.client.get(
            "/v1/receipts", params={"after": self.cursor, "limit": 500}, name="receipts", catch_response=True
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
                return
            page = answer.json()
            cursors = [receipt["cursor"] for receipt in page["receipts"]]
            if cursors != sorted(set(cursors)) or (cursors and cursors[0] <= self.cursor):
                answer.failure("cursors do not rise")
            self.cursor = page["cursor"]
