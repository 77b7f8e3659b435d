"""Outcomes and notifications as a provider sees them: by token and push id, never by number, device or address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from gateway.api.wire import DeliveryView, PushView, ReceiptView, StateName, StepView, TargetView
from gateway.delivery.lookup import timeline
from gateway.delivery.push_ids import PushIds
from gateway.delivery.request import URGENCIES
from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step
from gateway.model.ports import Directory, PushRecord, Receipt
from gateway.model.registration import build_token

#: figures that say something of it is not final yet
_PENDING = ("pending", *(state.name.lower() for state in State if not state.is_final))
_URGENCY_NAMES = {int(value): name for name, value in URGENCIES.items()}


def state_name(state: int) -> StateName:
    return cast(StateName, State(state).name.lower())


def _token(directory: Directory, number: int) -> str | None:
    registration = directory.registration(number)
    return None if registration is None else build_token(registration.token)


def _steps(steps: Sequence[Step]) -> list[StepView]:
    return [StepView(at_ms=s.at_ms, what=s.what, channel=s.channel, detail=s.detail) for s in steps]


def _delivery(notification: Notification, outcome: Outcome, directory: Directory) -> DeliveryView:
    steps = timeline(notification, outcome)
    return DeliveryView(
        token=_token(directory, outcome.registration),
        state=state_name(outcome.state),
        at_ms=outcome.at_ms or steps[-1].at_ms,
        steps=_steps(steps),
    )


def count_targeted(record: PushRecord) -> int | None:
    """Deliveries made of a push; None for a broadcast, and where it waits for its time or ended before that."""
    n = record.notification
    return (
        None
        if n.target.is_broadcast or record.due_ms or record.state is not None
        else record.figures.get("targeted", max(n.count, 1))
    )


def view_push(push_id: str, record: PushRecord, offset: int, limit: int, directory: Directory) -> PushView:
    """One page of a push's deliveries and what is known of the push itself; not its content."""
    n = record.notification
    if record.due_ms:
        state: Any = "scheduled"
    elif record.state is not None:
        state = "live" if record.state == State.ACCEPTED else state_name(record.state)
    else:
        state = "pending" if any(record.figures.get(name, 0) for name in _PENDING) else "done"
    total = 0 if record.state is not None or record.due_ms else count_targeted(record) or 0
    after = offset + limit
    return PushView(
        id=push_id,
        target=TargetView(
            token=n.target.token,
            alias=n.target.alias,
            tag=n.target.tag,
            versions=n.target.versions,
            everyone=n.target.everyone,
            where=n.target.where,
        ),
        state=state,
        accepted_at_ms=n.accepted_ms,
        expires_at=n.expires_s,
        deliver_at=record.due_ms // 1000 if record.due_ms else None,
        over=n.over_s,
        urgency=cast(Any, _URGENCY_NAMES[n.urgency]),
        collapse_key=n.collapse_key,
        body=n.body.value,
        ack_ms=n.ack_ms,
        notifier_ack_ms=n.notifier_ack_ms,
        fallback=n.fallback,
        deliveries=[_delivery(n, outcome, directory) for outcome in record.deliveries],
        figures={name: n for name, n in record.figures.items() if "@" not in name},
        next_offset=after if after < total else None,
    )


def view_receipt(app: str, receipt: Receipt, push_ids: PushIds, directory: Directory) -> ReceiptView:
    outcome = receipt.outcome
    is_download = outcome.is_download
    return ReceiptView(
        cursor=receipt.cursor,
        push=None if is_download else push_ids.build(app, receipt.push or outcome.notification),
        download=push_ids.downloads.build(app, outcome.notification) if is_download else None,
        delivery=outcome.place,
        token=None if is_download else _token(directory, outcome.registration),
        state=state_name(outcome.state),
        at_ms=outcome.at_ms,
        steps=_steps(outcome.steps),
    )
