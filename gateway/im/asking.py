"""Where what users ask for comes together: checks it, finds out who asks, runs the operation; must never say in an
error what was asked, nor let a device of nobody past what is for everybody."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest, GatewayError, NotSignedIn
from gateway.model.im_ports import UserRecords

_encode = msgspec.msgpack.Encoder().encode
_NAME = re.compile(r"[a-z_]{1,64}")


def check_ask(operation: Operation, values: Mapping[str, Any]) -> Ask:
    """What came, as the operation takes it. BadRequest names the field, and quotes nothing of what came."""
    try:
        return msgspec.convert(values, operation.ask)
    except msgspec.ValidationError as exc:
        raise _explain(exc, operation) from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None


def _explain(exc: msgspec.ValidationError, operation: Operation) -> BadRequest:
    reason, _, path = str(exc).partition(" - at ")
    field = path.rpartition(" in ")[2].strip("`").removeprefix("$").lstrip(".")
    quoted = reason.split("`")
    if "missing required field" in reason and len(quoted) > 1:
        field = f"{field}.{quoted[1]}" if field else quoted[1]
        return BadRequest(f"{field} is missing", field=field)
    if "unknown field" in reason:
        known = ", ".join(operation.ask.__struct_encode_fields__) or "none"
        return BadRequest(f"there is a field that {operation.name} does not take; it takes: {known}", field="")
    if "nvalid enum value" in reason or "nvalid value" in reason:
        reason = "not one of the words that can stand here, see /openapi.json"
    elif "matching regex" in reason:
        reason = "not of the form that is expected, see /openapi.json"
    if not all(_NAME.fullmatch(part) for part in re.sub(r"\[\d*(\.\.\.)?\]", "", field).split(".")):
        field = ""  # a name of theirs, not of ours
    return BadRequest(f"{reason} (at {field})" if field else reason, field=field)


class Asking:
    """Control thread only; model.ports.ImDoor."""

    def __init__(
        self,
        operations: Iterable[Operation],
        users: UserRecords,
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        on_active: Callable[[bytes], None] = lambda _user: None,
    ) -> None:
        self.operations = tuple(operations)
        self._by_name = {operation.name: operation for operation in self.operations}
        self._users = users
        self._metrics = metrics
        self._clock = clock
        #: somebody is there: their accounts are connected, or stay so
        self._on_active = on_active

    async def ask(self, token: bytes, op: str, body: bytes) -> bytes:
        operation = self._by_name.get(op)
        if operation is None:
            raise BadRequest("there is no such operation", field="op")
        try:
            values = msgspec.msgpack.decode(body) if body else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            raise BadRequest("the body is no msgpack", field="body") from None
        if not isinstance(values, dict):
            raise BadRequest("the body is no map", field="body")
        caller = Caller(self._users.signed_in(token), token, self._clock())
        return _encode(await self.run(operation, caller, values))

    async def run(self, operation: Operation, caller: Caller, values: Mapping[str, Any]) -> Reply:
        """GatewayError."""
        label = operation.name
        try:
            if operation.needs_user and caller.user is None:
                raise NotSignedIn
            asked = check_ask(operation, values)
            if caller.user is not None:
                self._on_active(caller.user)
            reply: Reply = await operation.run(caller, asked)
        except GatewayError as exc:
            self._metrics.count(Metric.IM_ASKS_REFUSED, label=f"{label} {exc.name}")
            raise
        self._metrics.count(Metric.IM_ASKED, label=label)
        return reply
