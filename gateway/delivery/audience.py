"""Target → registrations, or a broadcast; must never tell an unknown token from a revoked or a foreign one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.delivery.request import TargetRequest
from gateway.model.errors import BadRequest, InvalidField, UnknownToken
from gateway.model.notification import Target
from gateway.model.ports import Directory


class Audience(NamedTuple):
    """Whom a push is for: single deliveries, or one broadcast."""

    kind: str  # token, alias, tag, versions, everyone
    target: Target
    registrations: Sequence[int] = ()


def resolve_audience(directory: Directory, app: str, request: TargetRequest) -> Audience:
    """Raises BadRequest where not exactly one target is named or its versions can not be parsed, UnknownToken."""
    kinds = request.kinds()
    if len(kinds) != 1:
        raise BadRequest("name exactly one of token, alias, tag, versions, everyone", field="target")
    kind = kinds[0]
    target = Target(
        token=request.token,
        alias=request.alias,
        tag=request.tag,
        versions=request.versions,
        everyone=request.everyone,
    )
    if kind == "token":
        number = directory.find(request.token, app)
        if number < 0:
            raise UnknownToken(field="target.token")
        return Audience(kind, target, (number,))
    if kind == "alias":
        return Audience(kind, target, directory.by_alias(app, request.alias))
    if kind == "tag":
        return Audience(kind, target, directory.by_tag(app, request.tag))
    if kind == "versions":
        try:
            directory.groups(app, request.versions)
        except InvalidField as error:
            raise BadRequest(error.message, field="target.versions") from error
    return Audience(kind, target)
