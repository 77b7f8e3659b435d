"""What a fleet asks of JetStream, as plain requests; must never take an answer that was lost for a no.

Four outcomes, four errors: `NotSent` (certainly did not leave here), `NobodyThere` (no server takes it now: certainly
not carried out), `NoAnswer` (may have been carried out), `Refused` (the server's words).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from gateway.cluster.nats_transport import request

if TYPE_CHECKING:
    from nats.aio.client import Client

PREFIX = "$JS.API"
_T = TypeVar("_T")
#: of the server's error numbers: the stream's last sequence is not the expected one
WRONG_LAST = frozenset({10071, 10164})
NOT_FOUND = frozenset({10059, 10037, 10014})
#: … too few servers are known to the one that places a stream: where all are there it learns so from what each tells of
#: itself every ten seconds
TOO_FEW = 10005
PLACE_S = 12.0
_AGAIN_S = 0.1
_HEADER_LINE = b"NATS/1.0\r\n"
_decode = msgspec.json.decode
_encode = msgspec.json.encode


class NatsConnection(Protocol):
    """One kept for ever; `nats` may be another object after each loss."""

    @property
    def nats(self) -> Client: ...

    @property
    def is_up(self) -> bool: ...


class JetStreamError(Exception):
    pass


class NotSent(JetStreamError):
    pass


class NobodyThere(JetStreamError):
    pass


class NoAnswer(JetStreamError):
    pass


class Refused(JetStreamError):
    def __init__(self, err_code: int, text: str) -> None:
        super().__init__(f"{text} ({err_code})")
        self.err_code = err_code
        self.text = text


class StreamState(NamedTuple):
    created: str  # tells a stream from one of the same name made later
    first: int  # sequence of the first message, or of the next one where there is none
    last: int
    bytes: int
    messages: int
    subjects: dict[str, int]  # messages of each, of those that were asked for
    config: dict[str, Any]
    first_at: str = ""  # when the first message was written, by a server's clock
    last_at: str = ""


class StoredMessage(NamedTuple):
    seq: int
    headers: dict[str, str]
    body: bytes


class Stored(NamedTuple):
    """Answer to a publish."""

    seq: int
    duplicate: bool


def parse_headers(raw: bytes) -> dict[str, str]:
    """Of a message as the server keeps them; what is no header is left out."""
    headers: dict[str, str] = {}
    for line in raw.removeprefix(_HEADER_LINE).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode("utf-8", "replace").strip()] = value.decode("utf-8", "replace").strip()
    return headers


async def placed(make: Callable[[], Awaitable[_T]], refused: type[Exception]) -> _T:
    """What `make` (of a stream) answers, asked again for `PLACE_S` while the servers say that they are too few."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PLACE_S
    while True:
        try:
            return await make()
        except refused as exc:
            if getattr(exc, "err_code", None) != TOO_FEW or loop.time() > end:
                raise
        await asyncio.sleep(_AGAIN_S)


class JetStream:
    """Control thread only."""

    def __init__(self, link: NatsConnection, *, timeout_s: float = 2.0) -> None:
        self.link = link
        self.timeout_s = timeout_s

    async def request(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        import nats.errors as errors

        if not self.link.is_up:
            raise NotSent("there is no connection to NATS")
        try:
            timeout_s = self.timeout_s if timeout_s is None else timeout_s
            answer = await request(self.link.nats, subject, body, timeout_s=timeout_s, headers=headers)
        except errors.NoRespondersError:
            raise NobodyThere("no NATS server takes this now") from None
        except (errors.OutboundBufferLimitError, errors.MaxPayloadError, errors.ConnectionDrainingError) as exc:
            raise NotSent(type(exc).__name__) from None
        except (errors.Error, OSError, TimeoutError) as exc:
            raise NoAnswer(type(exc).__name__) from None
        try:
            said = _decode(answer)
        except ValueError:
            raise NoAnswer("an answer that can not be read") from None
        if not isinstance(said, dict):
            raise NoAnswer("an answer that can not be read")
        error = said.get("error")
        if isinstance(error, dict):
            raise Refused(int(error.get("err_code", 0)), str(error.get("description", "")))
        return said

    async def api(
        self, what: str, body: dict[str, Any] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        return await self.request(f"{PREFIX}.{what}", _encode(body) if body else b"", timeout_s=timeout_s)

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str], timeout_s: float | None = None
    ) -> Stored:
        said = await self.request(subject, body, headers, timeout_s)
        seq = said.get("seq")
        if not isinstance(seq, int):
            raise NoAnswer("an answer that can not be read")
        return Stored(seq, bool(said.get("duplicate")))

    # --- streams --------------------------------------------------------------------------------------------

    async def state(self, stream: str, subjects: str = "") -> StreamState | None:
        """None: there is no such stream."""
        try:
            said = await self.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects} if subjects else None)
        except Refused as exc:
            if exc.err_code in NOT_FOUND:
                return None
            raise
        return _state(said)

    async def names(self, subjects: str = "") -> list[str]:
        """Of the streams that take messages of these subjects (pattern); all where it is empty."""
        found: list[str] = []
        while True:
            said = await self.api("STREAM.NAMES", {"offset": len(found), **({"subject": subjects} if subjects else {})})
            page = said.get("streams") or []
            found += map(str, page)
            if not page or len(found) >= int(said.get("total", 0)):
                return sorted(found)

    async def ensure(self, config: dict[str, Any], timeout_s: float | None = None) -> StreamState:
        """Make it where there is none; change it where what is wanted is another. `timeout_s`: of making it."""
        name = config["name"]
        state = await self.state(name)
        if state is None:
            return _state(await placed(lambda: self.api(f"STREAM.CREATE.{name}", config, timeout_s), Refused))
        if any(state.config.get(field) != value for field, value in config.items()):
            return _state(await self.api(f"STREAM.UPDATE.{name}", {**state.config, **config}))
        return state

    async def message(self, stream: str, *, seq: int = 0, last_of: str = "") -> StoredMessage | None:
        """The one with this sequence, or the last of a subject; None where there is none."""
        try:
            said = await self.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": last_of} if last_of else {"seq": seq})
        except Refused as exc:
            if exc.err_code in NOT_FOUND:
                return None
            raise
        kept = said["message"]
        return StoredMessage(
            kept["seq"],
            parse_headers(base64.b64decode(kept.get("hdrs") or "")),
            base64.b64decode(kept.get("data") or ""),
        )

    async def purge(self, stream: str, *, below: int = 0, subject: str = "") -> int:
        """Remove what is below a sequence, or of a subject (pattern); how many."""
        body: dict[str, Any] = {}
        if below:
            body["seq"] = below
        if subject:
            body["filter"] = subject
        said = await self.api(f"STREAM.PURGE.{stream}", body)
        return int(said.get("purged", 0))

    async def consume(self, stream: str, inbox: str, start: int, *, subject: str = "", heartbeat_s: float) -> str:
        """Everything from this sequence on goes to the inbox, in order, with flow control; the consumer's name. It ends
        by itself when nobody listens."""
        config: dict[str, Any] = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, start),
            "ack_policy": "none",
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(heartbeat_s * 1e9),
            "inactive_threshold": int(10 * heartbeat_s * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if subject:
            config["filter_subject"] = subject
        said = await self.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        return str(said["name"])

    async def end_consumer(self, stream: str, consumer: str) -> None:
        """Said, and not waited for: where it is lost the consumer ends by itself, and who stops following may be about
        to take a partition over."""
        nats = self.link.nats
        await nats.publish(f"{PREFIX}.CONSUMER.DELETE.{stream}.{consumer}", b"", reply=nats.new_inbox())


def _state(said: dict[str, Any]) -> StreamState:
    state = said["state"]
    return StreamState(
        str(said["created"]),
        int(state["first_seq"]),
        int(state["last_seq"]),
        int(state["bytes"]),
        int(state["messages"]),
        dict(state.get("subjects") or {}),
        dict(said["config"]),
        str(state.get("first_ts", "")),
        str(state.get("last_ts", "")),
    )
