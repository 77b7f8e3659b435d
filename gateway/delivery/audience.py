"""Target → registrations, or a broadcast; must never tell an unknown token from a revoked or a foreign one."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.delivery.request import TargetRequest
from gateway.model.condition import check_condition, count_parts, holds, required_tag, tags_of
from gateway.model.errors import BadRequest, InvalidField, UnknownToken
from gateway.model.notification import Target
from gateway.model.ports import Directory
from gateway.model.versions import in_versions, parse_versions


class Audience(NamedTuple):
    """Whom a push is for: single deliveries, or one broadcast."""

    kind: str  # token, alias, tag, versions, everyone, where
    target: Target
    registrations: Sequence[int] = ()
    #: must each registration be looked at (see `choose`)?
    is_open: bool = False


def resolve_audience(directory: Directory, app: str, request: TargetRequest) -> Audience:
    """Raises BadRequest where not exactly one target is named or its versions can not be parsed, UnknownToken."""
    kinds = request.kinds()
    if len(kinds) != 1:
        raise BadRequest("name exactly one of token, alias, tag, versions, everyone, where", field="target")
    kind = kinds[0]
    target = Target(
        token=request.token,
        alias=request.alias,
        tag=request.tag,
        versions=request.versions,
        everyone=request.everyone,
        where=request.where,
    )
    if request.where is not None:
        if kind in ("token", "alias", "tag"):
            raise BadRequest(
                f"a condition goes with versions, everyone or alone; name the {kind} in it", field="target.where"
            )
        check_condition(request.where)
    return find_audience(directory, app, kind, target)


def find_audience(directory: Directory, app: str, kind: str, target: Target) -> Audience:
    """The same for a target that was checked. UnknownToken."""
    if kind == "token":
        number = directory.reach(target.token, app)
        if number < 0:
            raise UnknownToken(field="target.token")
        return Audience(kind, target, (number,))
    if kind == "alias":
        return Audience(kind, target, directory.by_alias(app, target.alias))
    if kind == "tag":
        return Audience(kind, target, directory.by_tag(app, target.tag))
    if kind == "versions":
        try:
            directory.groups(app, target.versions)
        except InvalidField as error:
            raise BadRequest(error.message, field="target.versions") from error
    return Audience(kind, target, is_open=not target.is_broadcast)


#: parts of a condition looked at in one slice, over all registrations
_LOOKS = 1_000


def kind_of(target: Target) -> str:
    """token, alias, tag, versions, everyone or where."""
    kinds = [name for name in ("token", "alias", "tag", "versions") if getattr(target, name)]
    return kinds[0] if kinds else "everyone" if target.everyone else "where"


def choose(directory: Directory, app: str, target: Target, chosen: array[int]) -> Iterator[None]:
    """Fill `chosen` with the registrations that meet the condition now, in slices. Tags are those of the beginning."""
    where = target.where
    assert where is not None
    tagged: dict[str, frozenset[int]] = {}
    for name in set(tags_of(where)):
        tagged[name] = frozenset(directory.by_tag(app, name))
        yield
    looks = max(1, _LOOKS // count_parts(where))
    specifiers = parse_versions(target.versions)
    tag = required_tag(where)
    parts: Iterator[Sequence[int]] = (
        _in_parts(sorted(tagged[tag])) if tag else directory.by_versions(app, target.versions, where)
    )
    for part in parts:
        for start in range(0, len(part), looks):
            for number in part[start : start + looks]:
                cohort = directory.cohort(number)
                if in_versions(cohort.version, specifiers) and holds(
                    where,
                    cohort,
                    lambda name, number=number: number in tagged[name],  # type: ignore[misc]
                    lambda number=number: directory.seen_ago_s(number),  # type: ignore[misc]
                ):
                    chosen.append(number)
            yield
        yield


def _in_parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), _LOOKS):
        yield numbers[start : start + _LOOKS]
