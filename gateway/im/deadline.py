"""Every await towards a network: over by a deadline, and with no more outcomes than a connector may have; must never
let what a connector says of a stranger into a log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from gateway.model.im import AuthFailed, CursorForgotten, Rejected, Transient

_log = structlog.get_logger(__name__)

#: told of each fault, with the network's name
OnFault = Callable[[str], None]

#: what a connector may raise
DECLARED = (AuthFailed, CursorForgotten, Rejected, Transient)


@asynccontextmanager
async def bounded(seconds: float, network: str, on_fault: OnFault) -> AsyncIterator[None]:
    """Around one await. What is not declared is Transient; so is silence, and then the network may have it."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except DECLARED:
        raise
    except TimeoutError:
        raise Transient("no answer in time", is_in_doubt=True) from None
    except (Exception, asyncio.CancelledError) as exc:
        raise declared(exc, network, on_fault) from None


def declared(exc: BaseException, network: str, on_fault: OnFault) -> BaseException:
    """What an undeclared end of an await means; our own cancellation stays what it is."""
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            return exc
        # nobody cancelled us: something of the connector's own was cancelled
    _log.warning("im_connector_fault", network=network, error=type(exc).__name__)
    on_fault(network)
    return Transient("the connection broke", is_in_doubt=True)
