"""What apps ask of the gateway, and what becomes of it across links: bindings, requests and their answers; sans-IO.

The half of the session core that does not care how a link begins and ends. Every request is idempotent, so what has no
answer when a link goes is asked again on the next. A FETCH or UNREGISTER waits until its token is bound on the link. Of
an account that ended while there was no link the gateway is told on the next: it is bound once more, and left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from gateway.client.bindings import Bindings
from gateway.client.content import Counters, Item, Notification, Recall, Tip
from gateway.client.errors import RegistrationEnded
from gateway.client.events import Answered, Binding, BindState, Bound, Ended, Event, Request, Resumed, Told
from gateway.client.events import Fetched as FetchResult
from gateway.client.heartbeat import AdaptiveHeartbeat
from gateway.client.inbox import Inbox
from gateway.client.seen import Seen
from gateway.model import frames
from gateway.model.errors import FrameTooLarge, GatewayError, InvalidField, OutOfOrder, QueueFull
from gateway.model.frames import FRAME_BYTES, MAX_IDS, FrameType, build_frame, build_varint, parse_body

#: requests waiting for an answer; past it QueueFull
MAX_REQUESTS = 256
#: refused requests are sent again after after_ms plus a random part of this share of it
RETRY_JITTER = 0.3
#: bodies that had no room, or were sent and did not come, are asked for again after so long, doubling up to so much
FETCH_AGAIN_S = 5.0
FETCH_AGAIN_MAX_S = 320.0


class Phase(Enum):
    OFFLINE = "offline"
    LOGIN = "login"
    ONLINE = "online"
    OVER = "over"


class Requests:
    def __init__(
        self,
        heartbeat: AdaptiveHeartbeat,
        seen: Seen,
        counters: Counters,
        random: Callable[[], float],
        urgency: int,
    ) -> None:
        self.phase = Phase.OFFLINE
        self.heartbeat = heartbeat
        self.counters = counters
        self.bindings = Bindings()
        self.urgency = urgency
        self._inbox = Inbox(seen, counters)
        self._random = random
        self._events: deque[Event] = deque()
        self._requests: dict[Request, int] = {}  # → req on this link, 0 = not sent on it
        self._by_req: dict[int, Request] = {}
        self._last_req = 0
        self._foreground_told: bool | None = None
        # of the link there is
        self._out = bytearray()
        self._max_frame = FRAME_BYTES
        self._window = MAX_IDS
        self._now = 0.0
        #: of the last link that said it; 0: none did
        self._unix_offset = 0.0

    # --- what the app wants -----------------------------------------------------------------------------------------

    def register(self, binding: Binding) -> None:
        """Bind it, on this link and on each later one. Bound, or Ended with the reason, follows; a refusal that says
        to retry is retried. Unless binding.keep, other accounts of the app are suspended until then (A5)."""
        if binding.is_over:
            raise ValueError("this binding has ended")
        binding.retry_at = 0.0
        binding.suspended = False
        for request in [r for r in self._requests if r.binding is not None and r.binding.key == binding.key]:
            binding.may_be_known |= request.binding is not binding and request.kind is FrameType.UNREGISTER
            if request.lasting and not request.body.forget:
                self.cancel(request)  # it is back
        self.bindings.put(binding)
        if not binding.keep:
            for other in self.bindings.others(binding):
                other.suspended = True
        if self.phase is Phase.ONLINE:
            self._send_register(binding)

    def abandon(self, binding: Binding) -> None:
        """Nobody waits for it any more: what it would have replaced goes on, unless it is replaced already."""
        was_asked = binding.state is BindState.ASKED
        self._end(binding)
        if not was_asked:  # else when its TOKEN comes, or with the link
            self._leave(binding)
        self._resume_others(binding)

    def unregister(self, binding: Binding, *, forget: bool = False) -> Request | None:
        """End the binding at once; None where there is no answer to wait for: the gateway does not know it, or hears of
        it on the next link."""
        self._check_room()
        was_wanted = binding.state is BindState.WANTED
        self._end(binding)
        self._resume_others(binding)
        if was_wanted and not (forget and binding.token):
            self._leave(binding, forget=forget)
            return None
        body = frames.Unregister(req=0, token=binding.token, forget=forget)
        return self._request(Request(FrameType.UNREGISTER, body, binding))

    def _leave(self, binding: Binding, *, forget: bool = False, at: float = 0.0) -> None:
        """It ended, and the gateway may not know: what is pushed to it would go on to other channels (A5). `at`: not
        before."""
        if not binding.may_be_known or (not forget and self.bindings.find(*binding.key) is not None):
            return  # never asked for, or back already
        binding.retry_at = at
        if any(leave.binding is binding for leave in self._leaves()):
            return
        for oldest in self._leaves()[: -MAX_REQUESTS + 1]:
            self.cancel(oldest)
            self.counters.leaves_lost += 1
        body = frames.Unregister(req=0, token=binding.token, forget=forget)
        request = Request(FrameType.UNREGISTER, body, binding, internal=True, lasting=True)
        if at:
            self._requests[request] = 0
        else:
            self._request(request)

    def _leaves(self) -> list[Request]:
        return [request for request in self._requests if request.lasting]

    def _known(self) -> list[Binding]:
        """Those that are wanted, and those that are left."""
        return [*self.bindings, *(leave.binding for leave in self._leaves() if leave.binding is not None)]

    def fetch(self, binding: Binding) -> Request:
        """A4: everything that waits for the token and for its app and version; Answered with Fetched follows."""
        return self._request(Request(FrameType.FETCH, frames.Fetch(req=0, token=binding.token), binding))

    def ask(self, binding: Binding, op: str, body: bytes) -> Request:
        """UP: an operation of IM; Answered with the packed answer follows."""
        up = frames.Up(req=0, op=op, body=msgspec.Raw(body or b"\x80"))
        return self._request(Request(FrameType.UP, up, binding))

    def set_urgency(self, floor: int) -> Request:
        """Below this urgency the gateway keeps notifications, now and on later links (RFC 8030 §5.3)."""
        self.urgency = floor
        return self._request(Request(FrameType.STATE, frames.State(urgency=floor)))

    def set_foreground(self, binding: Binding, foreground: bool, now: float) -> None:
        """B6. In the foreground held messages come as Arrived events, bodies of light ones are fetched."""
        if binding.foreground == foreground or binding.is_over:
            return
        binding.foreground = foreground
        if foreground:
            self._events.extend(self._inbox.foreground(binding, self._unix_offset + now))
            self._fetch_bodies(binding)
        else:
            self._events.extend(self._inbox.background(binding, self._unix_offset + now))
        self._tell_foreground()

    def drop(self, binding: Binding) -> None:
        """What is held for it is handed out neither now nor when its bodies come."""
        self._inbox.drop(binding)

    def forget(self, item: Item) -> bool:
        """It was given to the caller and not to the app (A5); False: there is nothing to forget of a recall."""
        if isinstance(item, Recall):
            return False
        self._inbox.forget(item.notification if isinstance(item, Tip) else item)
        return True

    def confirm(self, binding: Binding, item: Notification | Tip) -> None:
        """The app's queue has it."""
        if not binding.is_over:
            self._inbox.confirm(binding, item)
            self._unblock(binding)

    def confirm_shown(self, binding: Binding, notification: Notification) -> None:
        """The user saw it. Also said for a binding that has ended: it was shown all the same."""
        self._inbox.confirm_shown(binding, notification)
        self._unblock(binding)

    def cancel(self, request: Request) -> None:
        req = self._requests.pop(request, 0)
        self._by_req.pop(req, None)

    def give_up(self, request: Request) -> None:
        """Nobody waits for the answer any more. An account that ended is left all the same."""
        if request.kind is FrameType.UNREGISTER and request in self._requests:
            request.internal = request.lasting = True
        else:
            self.cancel(request)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _request(self, request: Request) -> Request:
        if not request.internal:
            self._check_room()
        self._requests[request] = 0
        if self.phase is Phase.ONLINE:
            self._send(request)
        return request

    def _check_room(self) -> None:
        if sum(not request.internal for request in self._requests) >= MAX_REQUESTS:
            raise QueueFull("Too many requests of this device wait for an answer.")

    def _send(self, request: Request) -> None:
        if self._requests.get(request, -1):
            return  # sent on this link already, or refused meanwhile
        binding = request.binding
        if binding is not None and request.kind is not FrameType.REGISTER:
            if not binding.on_link:
                if binding.is_over and not self._asked(binding):
                    # To be forgotten, but the link is a new one: bind it shortly, beside the others.
                    self._ask(binding, keep=True)
                return  # sent when TOKEN comes
            request.body.token = binding.token
        if request.kind is FrameType.FETCH:
            self._out += self._inbox.flush(self._max_frame)  # confirmations make room in the in-flight window
            request.had, request.had_frames = self._inbox.news, self._inbox.frames
            if binding is not None:
                self._inbox.ask(binding, request.body.ids)
        self._last_req = req = self._last_req % 0xFFFFFFFF + 1
        request.body.req = req
        self._requests[request] = req
        self._by_req[req] = request
        if not self._write(request.kind, request.body):
            self._refused(request, FrameTooLarge("The request is larger than the gateway takes."))

    def _send_register(self, binding: Binding) -> None:
        binding.state = BindState.ASKED
        self._ask(binding, keep=binding.keep)

    def _ask(self, binding: Binding, *, keep: bool) -> None:
        binding.may_be_known = True
        for old in self._asked(binding):
            self.cancel(old)  # only the answer to the newest counts
        body = frames.Register(
            req=0,
            app=binding.app,
            version=binding.version,
            account=binding.account,
            keep=keep,
            alias=binding.alias,
            tags=binding.tags,
            addresses=binding.addresses,
            fallback=binding.fallback,
            **binding.profile._asdict(),
            vapid_key=binding.vapid_key,
            pages=binding.pages,
        )
        self._request(Request(FrameType.REGISTER, body, binding, internal=True))

    def _asked(self, binding: Binding) -> list[Request]:
        return [r for r in self._requests if r.binding is binding and r.kind is FrameType.REGISTER]

    def _send_all(self) -> None:
        """A new link: bindings first, then whatever still wants an answer."""
        for binding in self.bindings:
            if not binding.suspended:
                self._send_register(binding)
        for request in list(self._requests):
            self._send(request)
        self._tell_foreground()

    def _link_lost(self) -> None:
        """Nothing is bound on the next link until its TOKEN comes."""
        self._by_req.clear()
        self._foreground_told = None
        self._inbox.link_lost()
        self.bindings.unbind_all()
        for request in list(self._requests):
            self._requests[request] = 0
            if request.binding is not None:
                request.binding.on_link = False
                request.binding.retry_at = 0.0
            if request.internal and not request.lasting:
                del self._requests[request]
                if request.kind is FrameType.REGISTER and request.binding is not None and request.binding.is_over:
                    self._leave(request.binding)
            elif request.kind is FrameType.UNREGISTER and not request.body.forget and not request.internal:
                del self._requests[request]
                self._events.append(Answered(request))  # here it is bound no more
                if request.binding is not None:
                    self._leave(request.binding)

    def _ask_heartbeat(self, interval: int) -> None:
        if interval:
            self._request(Request(FrameType.STATE, frames.State(heartbeat=interval), internal=True))

    def _tell_foreground(self) -> None:
        """STATE for the link as a whole: is any app in the foreground?"""
        if self.phase is not Phase.ONLINE:
            return
        foreground = any(b.foreground for b in self.bindings)
        told = self._foreground_told is not False  # a new link is taken to be in the foreground
        if len(self.bindings) and foreground != told:
            self._foreground_told = foreground
            self._request(Request(FrameType.STATE, frames.State(foreground=foreground), internal=True))

    def _write(self, kind: FrameType, body: Any) -> bool:
        frame = build_frame(kind, body)
        if len(frame) > 1 + len(build_varint(self._max_frame)) + self._max_frame:
            return False
        self._out += frame
        return True

    # --- answers ------------------------------------------------------------------------------------------------------

    def _handle_token(self, body: bytes) -> None:
        token = parse_body(body, frames.Token)
        request = self._answered(token.req, FrameType.REGISTER)
        binding = request.binding if request else None
        if request is None or binding is None:
            return
        if not token.token:
            raise InvalidField("TOKEN without a token", field="token")
        if binding.is_over:
            self._take_back(binding, token.token, replaced=not request.body.keep)
            return
        changed = self.bindings.bind(binding, token.token)
        binding.page_key, binding.servers = token.page_key, token.servers
        for other in self.bindings.others(binding):
            if other.suspended and not binding.keep:
                was_wanted = other.state is BindState.WANTED
                self._end(other)
                if was_wanted:
                    self._leave(other)  # the gateway replaces what is bound on this link
        self._events.append(Bound(binding, changed))
        self._send_waiting(binding)
        self._fetch_bodies(binding)

    def _take_back(self, binding: Binding, token: str, *, replaced: bool) -> None:
        """Given up while REGISTER was under way."""
        binding.token = token
        binding.on_link = True
        if not self._send_waiting(binding):
            self._leave(binding)
        if replaced:
            self._restore_others(binding)

    def _restore_others(self, binding: Binding) -> None:
        """Answers may come in another order than requests, so it may have replaced what was bound after it."""
        for other in self.bindings.others(binding):
            if not other.suspended:
                self._send_register(other)

    def _send_waiting(self, binding: Binding) -> bool:
        """What waited for the token; False where there was nothing."""
        waiting = [r for r, req in self._requests.items() if r.binding is binding and not req]
        for request in waiting:
            self._send(request)
        return bool(waiting)

    def _handle_fetched(self, body: bytes) -> None:
        fetched = parse_body(body, frames.Fetched)
        request = self._answered(fetched.req, FrameType.FETCH)
        if request is None or request.binding is None:
            return
        request.count += fetched.count
        more = fetched.more and self._inbox.news > request.had  # not when only duplicates came
        if request.internal:
            self._bodies_came(request.binding, request, fetched, more)
        elif more:
            self._request(request)
        else:
            self._events.append(Answered(request, result=FetchResult(request.count, fetched.more)))

    def _handle_done(self, body: bytes) -> None:
        done = parse_body(body, frames.Done)
        request = self._answered(done.req, FrameType.UNREGISTER, FrameType.STATE)
        if request is None:
            return
        if done.heartbeat and request.kind is FrameType.STATE and request.body.heartbeat:
            self.heartbeat.on_agreed(done.heartbeat)
        if request.kind is FrameType.UNREGISTER and (back := self.bindings.of_token(request.body.token)) is not None:
            self._send_register(back)  # bound anew before this was carried out
            if not back.keep:
                self._restore_others(back)
        self._answer(request)

    def _handle_down(self, body: bytes) -> None:
        down = parse_body(body, frames.Down)
        if not down.req:
            binding = self.bindings.of_token(down.token)
            if binding is not None:
                self._events.append(Told(binding, bytes(down.body)))
            return
        request = self._answered(down.req, FrameType.UP)
        if request is not None:
            self._events.append(Answered(request, result=bytes(down.body)))

    def _answered(self, req: int, *kinds: FrameType) -> Request | None:
        """The request this answers; None where nobody waits any more."""
        request = self._by_req.get(req)
        if request is None:
            return None
        if request.kind not in kinds:
            raise OutOfOrder("The gateway answered a request with the wrong kind of frame.")
        self.cancel(request)
        return request

    def _answer(self, request: Request, error: GatewayError | RegistrationEnded | None = None) -> None:
        if not request.internal:
            self._events.append(Answered(request, error))

    def _refused(self, request: Request, error: GatewayError) -> None:
        self.cancel(request)
        binding = request.binding
        again_at = self._now + max(error.after_ms, 1_000) / 1000 * (1 + RETRY_JITTER * self._random())
        if binding is not None and request.kind is FrameType.REGISTER:
            if binding.is_over:
                for waiting in [r for r in self._requests if r.binding is binding]:
                    if waiting.lasting and error.retryable:
                        binding.retry_at = again_at
                        continue
                    self.cancel(waiting)
                    self._answer(waiting, error)
                    if error.retryable:
                        self._leave(binding, forget=waiting.body.forget, at=again_at)
                if error.retryable:
                    self._leave(binding, at=again_at)  # an earlier REGISTER may have bound it
                return
            binding.state = BindState.WANTED
            if error.retryable:
                binding.retry_at = again_at
                return
            self._end(binding, error)
            self._resume_others(binding)
        elif binding is not None and request.kind is FrameType.UNREGISTER:
            self._answer(request, error)
            if error.retryable:
                self._leave(binding, forget=request.body.forget, at=again_at)
        elif binding is not None and request.internal:  # FETCH for bodies
            binding.fetch = None
            if error.retryable:
                binding.fetch_at = again_at
            else:
                binding.missed = binding.missed and bool(request.body.ids)
                self._drop_bodies(binding, request.body.ids)
        else:
            self._answer(request, error)

    # --- bindings -----------------------------------------------------------------------------------------------------

    def _end(self, binding: Binding, error: GatewayError | None = None) -> None:
        if binding.is_over:
            return
        self.bindings.remove(binding)
        binding.state = BindState.ENDED
        for request in [r for r in self._requests if r.binding is binding]:
            if request.kind in (FrameType.FETCH, FrameType.UP):  # it would have to be bound for it
                self.cancel(request)
                self._answer(request, error or RegistrationEnded(f"The registration of app {binding.app} has ended."))
        self._inbox.end(binding)
        binding.retry_at = binding.fetch_at = 0.0
        self._events.append(Ended(binding, error))
        self._tell_foreground()

    def _resume_others(self, binding: Binding) -> None:
        others = self.bindings.others(binding)
        if binding.keep or any(b.state is not BindState.BOUND and not (b.keep or b.suspended) for b in others):
            return  # nothing was suspended, or for a yet newer one too
        suspended = [other for other in others if other.suspended]
        # the newest that replaces others goes on replacing those before it
        first = max((place for place, other in enumerate(suspended) if not other.keep), default=0)
        for other in suspended[first:]:
            other.suspended = False
            self._events.append(Resumed(other))
            if self.phase is Phase.ONLINE:
                self._send_register(other)  # the gateway may have replaced it already

    # --- bodies of light notifications --------------------------------------------------------------------------------

    def _fetch_bodies(self, binding: Binding) -> None:
        """B2: in the foreground ask for what is held light, or for all where some were refused; in the background for
        what was asked for before, and is not confirmed any more until it comes."""
        if not binding.is_live or binding.fetch is not None or binding.fetch_blocked or binding.fetch_at:
            return
        missed = binding.missed and binding.foreground
        ids = [] if missed else self._inbox.wanted(binding)
        if not ids and not missed:
            return
        # No more at once than the window takes: what is past it would come light again, or later.
        ask = frames.Fetch(req=0, token=binding.token, ids=ids[: min(MAX_IDS, max(1, self._window))])
        binding.fetch = Request(FrameType.FETCH, ask, binding, internal=True)
        self._request(binding.fetch)

    def _bodies_came(self, binding: Binding, request: Request, fetched: frames.Fetched, more: bool) -> None:
        binding.fetch = None
        ids = request.body.ids
        missing = [id for id in ids if id in binding.held and binding.held[id].light]
        if fetched.more:
            # The window was full. Confirmations may have made room by now; without progress wait for some.
            self._block(binding, not more)
        elif fetched.count > (len(ids) - len(missing) if ids else self._inbox.frames - request.had_frames):
            self._block(binding, True)  # one was lost on its way to the node of this link
        elif ids:
            binding.fetches_blocked = 0
            self._drop_bodies(binding, missing)
        else:
            binding.missed, binding.fetches_blocked = False, 0
        self._fetch_bodies(binding)

    def _block(self, binding: Binding, blocked: bool) -> None:
        binding.fetch_blocked = blocked
        binding.fetch_at = 0.0
        if blocked:
            binding.fetch_at = self._now + min(FETCH_AGAIN_S * 2**binding.fetches_blocked, FETCH_AGAIN_MAX_S)
            binding.fetches_blocked = min(binding.fetches_blocked + 1, 16)

    def _drop_bodies(self, binding: Binding, ids: list[int]) -> None:
        """Asked for and not sent: expired or recalled by now. Should one come yet, it is taken all the same."""
        for id in ids:
            held = binding.held.get(id)
            if held is not None and held.light:
                del binding.held[id]
                self.counters.bodies_gone += 1

    def _unblock(self, binding: Binding) -> None:
        if binding.fetch_blocked:
            binding.fetch_blocked, binding.fetch_at, binding.fetches_blocked = False, 0.0, 0
            self._fetch_bodies(binding)
