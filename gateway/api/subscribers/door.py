"""Handlers of the subscribers' routes; an app server must never be answered with a network id, nor be able to tell an
unknown id from one that is not for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar, cast

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.ports import Backend
from gateway.api.receipts import MAX_CURSOR, MAX_PAGE, PAGE
from gateway.api.subscribers.wire import (
    AskBody,
    ByNetworkId,
    HistoryBody,
    HistoryView,
    IdsView,
    KindName,
    LocateBody,
    Located,
    NetworkIdBody,
    NetworkIdView,
    NewsPage,
    NewsView,
    OpaqueName,
    OpaqueView,
    OptOutBody,
    OptOuts,
    PastView,
    ResolveBody,
    Resolved,
    RevokeBody,
    Revoked,
    TriggerAnswer,
    TriggerBody,
)
from gateway.identity.allocator import NOTHING, Ask, Trigger, name_of, opt_out_word
from gateway.identity.identity import Identity
from gateway.identity.network_ids import parse_network_id
from gateway.identity.opaque_ids import OpaqueId, parse_opaque_id
from gateway.model.errors import BadRequest, MappingUnavailable, UnknownApp, UnknownSubscriber
from gateway.model.subscriber import Granularity, IssuedId, NetworkId, NetworkIdKind, OpaqueKind, Scope

_T = TypeVar("_T")
#: where an object is in a body of these routes
_PLACE = re.compile(r"network_ids\[\d+\](?=\.)|network_id(?=\.)")
#: lines of history in one answer
MAX_HISTORY = 1_000


async def _body(call: Call, as_type: type[_T]) -> _T:
    """Errors elsewhere quote unknown words and names of unknown fields; here both may be a person's number."""
    try:
        return await call.body(as_type)
    except BadRequest as exc:
        place, message = exc.field, exc.message
        if "Invalid enum value" in message:
            message = f"not one of the words that can stand here, see /openapi.json (at {place})"
        elif "unknown field" in message:
            # the name itself may have dots in it
            known = _PLACE.match(place)
            place = known[0] if known is not None else ""
            message = "a field is not known here, see /openapi.json" + (f" (at {place})" if place else "")
    # out of the handler, so that no context keeps what was given
    raise BadRequest(message, field=place)


def _parse(body: NetworkIdBody, field: str) -> NetworkId:
    return parse_network_id(NetworkIdKind[body.kind.upper()], body.value, field)


def _view(issued: IssuedId) -> OpaqueView:
    opaque = OpaqueId(issued.local, issued.host)
    scope = issued.scope
    return OpaqueView(
        id=opaque.canonical,
        url=opaque.url,
        kinds=_names(OpaqueKind(issued.kinds)),
        app=scope.name if scope.granularity == Granularity.APP else None,
        class_=scope.name if scope.granularity == Granularity.CLASS else None,
        from_ms=issued.from_ms,
        until_ms=issued.until_ms or None,
    )


def _names(kinds: OpaqueKind) -> list[OpaqueName]:
    return [cast(OpaqueName, name_of(kind)) for kind in OpaqueKind if kind & kinds]


def _view_network(network_ids: Iterable[NetworkId]) -> list[NetworkIdView]:
    return [NetworkIdView(kind=cast(KindName, each.kind.name.lower()), value=each.value) for each in network_ids]


class SubscriberRoutes:
    def __init__(self, backend: Backend, identity: Identity) -> None:
        self._backend = backend
        self._identity = identity

    # --- the operator's -------------------------------------------------------------------------------------

    async def trigger(self, call: Call) -> Response:
        """C4, C15."""
        wanted = await _body(call, TriggerBody)
        kinds = NOTHING
        for name in wanted.kinds:
            kinds |= OpaqueKind[name.upper().replace("-", "_")]
        ask = Ask(
            network=[_parse(each, f"network_ids[{at}].value") for at, each in enumerate(wanted.network_ids)],
            trigger=Trigger(wanted.trigger),
            scope=self._scope(wanted.app, wanted.class_),
            kinds=kinds,
            replace=wanted.replace,
            together=wanted.together,
            further=wanted.further,
            validity_s=wanted.validity_s,
            move=wanted.move,
        )
        made = await call.committed(self._identity.allocator.allocate(ask))
        ids = [_view(each) for each in made.ids]
        return call.answer(TriggerAnswer(ids=ids, drawn=made.drawn, replaced=made.replaced))

    def _scope(self, app: str | None, class_name: str | None) -> Scope:
        if app is not None and class_name is not None:
            raise BadRequest("an id is of an app or of a class, not of both", field="class")
        if app is not None:
            if self._backend.directory.app(app) is None:
                raise UnknownApp
            return Scope(Granularity.APP, app)
        return Scope() if class_name is None else Scope(Granularity.CLASS, class_name)

    async def ids(self, call: Call) -> Response:
        wanted = await _body(call, ByNetworkId)
        found = self._identity.allocator.ids_of(_parse(wanted.network_id, "network_id.value"))
        return call.answer(IdsView(ids=[_view(each) for each in found]))

    async def revoke(self, call: Call) -> Response:
        wanted = await _body(call, RevokeBody)
        allocator = self._identity.allocator
        if (wanted.id is None) == (wanted.network_id is None):
            raise BadRequest("give either an id or a network_id", field="id")
        if wanted.id is not None:
            if wanted.forget:
                raise BadRequest("goes with network_id: it is the subscriber that is forgotten", field="forget")
            await call.committed(allocator.revoke(wanted.id))
            return call.answer(Revoked(revoked=1))
        assert wanted.network_id is not None
        network_id = _parse(wanted.network_id, "network_id.value")
        return call.answer(
            Revoked(revoked=await call.committed(allocator.revoke_all(network_id, forget=wanted.forget)))
        )

    async def opt_out(self, call: Call) -> Response:
        wanted = await _body(call, OptOutBody)
        scope = self._scope(wanted.app, wanted.class_)
        if scope.granularity == Granularity.CLASS and not self._identity.classes.is_known(scope.name):
            raise BadRequest("there is no such class; the setting identity.classes has them", field="class")
        what = opt_out_word(wanted.app or "", wanted.class_ or "")
        network_id = _parse(wanted.network_id, "network_id.value")
        out = await call.committed(self._identity.allocator.opt_out(network_id, what, out=wanted.out))
        return call.answer(OptOuts(out=list(out)))

    async def resolve(self, call: Call) -> Response:
        wanted = await _body(call, ResolveBody)
        elsewhere = self._identity.hosts.elsewhere(parse_opaque_id(wanted.id))
        if elsewhere:
            return call.answer(Resolved(network_ids=[], kinds=[], elsewhere=elsewhere))
        try:
            found = await self._identity.resolver.resolve(wanted.id, wanted.app)
        except (TimeoutError, OSError, ValueError):
            # out of the handler's context, as in the pagers: no error names whom it was about
            raise MappingUnavailable from None
        if found is None:
            raise UnknownSubscriber
        network_ids = [NetworkId(kind, value) for kind in NetworkIdKind for value in found.all(kind)]
        return call.answer(Resolved(network_ids=_view_network(network_ids), kinds=_names(found.kinds)))

    async def history(self, call: Call) -> Response:
        wanted = await _body(call, HistoryBody)
        parsed = parse_opaque_id(wanted.id)
        lines = [] if parsed is None else self._identity.records.past(parsed.local, MAX_HISTORY)
        if not lines:
            raise UnknownSubscriber
        views = [
            PastView(
                network_ids=_view_network(line.network),
                from_ms=line.from_ms,
                until_ms=line.until_ms or None,
                why=line.why,
            )
            for line in lines
        ]
        return call.answer(HistoryView(history=views))

    # --- an app server's ------------------------------------------------------------------------------------

    async def ask(self, call: Call) -> Response:
        """C5, C15."""
        wanted = await _body(call, AskBody)
        nai = parse_network_id(NetworkIdKind.NAI, wanted.nai, "nai")
        made = await call.committed(self._identity.ask(call.app.name, nai, wanted.class_ or ""))
        return call.answer(IdsView(ids=[_view(each) for each in made.ids]))

    async def news(self, call: Call) -> Response:
        """C5: unasked, and again after each re-allocation."""
        after = call.query("after", 0, 0, MAX_CURSOR)
        limit = call.query("limit", PAGE, 1, MAX_PAGE)
        lines = self._identity.records.news(call.app.name, after, limit)
        page = [
            NewsView(
                cursor=line.cursor,
                replaces=list(line.replaces),
                **{name: getattr(view, name) for name in view.__struct_fields__},
            )
            for line in lines
            for view in (_view(line.issued),)
        ]
        return call.answer(NewsPage(ids=page, cursor=lines[-1].cursor if lines else after))

    async def locate(self, call: Call) -> Response:
        """C6: from the id alone; whether it is known is not looked at."""
        wanted = await _body(call, LocateBody)
        parsed = parse_opaque_id(wanted.id)
        gateway = self._identity.hosts.elsewhere(parsed)
        if not gateway and (parsed is None or not self._identity.hosts.is_own(parsed.host)):
            raise UnknownSubscriber
        assert parsed is not None
        return call.answer(Located(gateway=f"https://{parsed.host}"))
