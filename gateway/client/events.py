"""What the session core asks and tells: bindings, requests and events; plain data, no behaviour of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gateway.client.content import AckPolicy, Item, Notification
from gateway.client.errors import LinkLost, RegistrationEnded
from gateway.model.device_address import DeviceAddress
from gateway.model.errors import GatewayError
from gateway.model.frames import FrameType, Welcome
from gateway.model.registration import NO_PROFILE, Profile


class BindState(Enum):
    WANTED = "wanted"  # not bound on this link yet
    ASKED = "asked"  # REGISTER sent
    BOUND = "bound"
    ENDED = "ended"  # unregistered, given up, or replaced by another account


@dataclass(slots=True, eq=False, repr=False)
class Binding:
    """One (app, account) this device wants bound; outlives links."""

    app: str
    version: str
    account: str = ""
    keep: bool = False
    alias: str | None = None
    tags: list[str] | None = None
    addresses: dict[str, str] | None = None
    fallback: list[str] | None = None
    profile: Profile = NO_PROFILE
    vapid_key: str | None = None
    pages: bool = False
    ack: AckPolicy = AckPolicy.RECEIPT
    foreground: bool = True

    state: BindState = BindState.WANTED
    token: str = field(default="", repr=False)
    #: of TOKEN, where `pages` asked for it (C13)
    page_key: bytes = field(default=b"", repr=False)
    servers: list[str] = field(default_factory=list, repr=False)
    #: TOKEN came on this link
    on_link: bool = False
    #: a REGISTER was sent, on whatever link: the gateway may have the account in use
    may_be_known: bool = False
    #: another account of the app is taking its place: nothing is handed out, nothing acked (A5)
    suspended: bool = False
    #: REGISTER is sent again then, after a refusal that says to retry; 0 = not waiting
    retry_at: float = 0.0
    #: had in the background, or light and waiting for their bodies; by id, bounded
    held: dict[int, Notification] = field(default_factory=dict, repr=False)
    #: notifications were refused because `held` was full: fetch all in the foreground
    missed: bool = False
    #: the FETCH under way for bodies
    fetch: Request | None = field(default=None, repr=False)
    #: FETCH got nothing for the in-flight window is full, or less than was sent: try after the next confirmation, where
    #: the light form comes again, or at `fetch_at`
    fetch_blocked: bool = False
    #: FETCH is sent again then; 0 = not waiting
    fetch_at: float = 0.0
    #: times in a row that it was blocked
    fetches_blocked: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.app, self.account

    @property
    def is_live(self) -> bool:
        """What comes for it is taken; also while it is asked for again, for the gateway has it bound all the time."""
        return self.on_link and not self.is_over and not self.suspended

    @property
    def is_over(self) -> bool:
        return self.state is BindState.ENDED

    @property
    def is_heard(self) -> bool:
        """A confirmation is taken in now. Where a gateway does not know yet that this is bound, it is too early."""
        return self.on_link or self.is_over


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """One frame that wants an answer. All requests are idempotent, so they are sent again on a new link."""

    kind: FrameType
    body: Any
    binding: Binding | None = None
    #: made by the session itself: nobody waits, it ends with its link
    internal: bool = False
    #: nobody waits, and it is asked on the next link all the same
    lasting: bool = False
    #: NOTIFYs sent in answer so far (FETCH)
    count: int = 0
    #: Inbox.news and Inbox.frames when it was sent (FETCH)
    had: int = 0
    had_frames: int = 0


@dataclass(slots=True, frozen=True)
class Fetched:
    """Answer to a fetch: so many were sent; `more`: the in-flight window was full, confirm some and fetch again."""

    count: int
    more: bool


@dataclass(slots=True, frozen=True)
class Online:
    """Login succeeded."""

    welcome: Welcome


@dataclass(slots=True, frozen=True)
class Issued:
    """The gateway gave a new id or secret: keep both."""

    device: str = field(repr=False)
    secret: bytes = field(repr=False)


@dataclass(slots=True, frozen=True)
class Bound:
    """TOKEN came. `changed`: the token is another one than before."""

    binding: Binding
    changed: bool


@dataclass(slots=True, frozen=True)
class Ended:
    """This binding is over; what it has queued must not be handed out any more (A5)."""

    binding: Binding
    error: GatewayError | None = None


@dataclass(slots=True, frozen=True)
class Resumed:
    """It was about to be replaced, and is not."""

    binding: Binding


@dataclass(slots=True, frozen=True)
class Arrived:
    """Hand this to the app, then call Session.confirm for notifications and tips."""

    binding: Binding
    item: Item


@dataclass(slots=True, frozen=True)
class Answered:
    request: Request
    error: GatewayError | RegistrationEnded | None = None
    #: of a fetch, or what an UP was answered, packed
    result: Fetched | bytes | None = None


@dataclass(slots=True, frozen=True)
class Told:
    """DOWN that answers nothing, packed: presence, typing. It is not kept anywhere."""

    binding: Binding
    body: bytes = field(repr=False)


@dataclass(slots=True, frozen=True)
class Paged:
    """A service page came (C13). Call Session.paged once the app was started."""

    req: int
    page: bytes = field(repr=False)


@dataclass(slots=True, frozen=True)
class Complained:
    """The gateway sent an ERROR that answers no request; the link goes on."""

    error: GatewayError


@dataclass(slots=True, frozen=True)
class Closed:
    """This link is over; close the socket. The last event of a link."""

    error: GatewayError | LinkLost
    retry: bool
    after_ms: int = 0
    jitter_ms: int = 0
    #: another gateway that GOAWAY named
    to: DeviceAddress | None = None
    #: the link was logged in when it was told to end
    logged_in: bool = False


Event = Online | Issued | Bound | Ended | Resumed | Arrived | Answered | Told | Paged | Complained | Closed
