"""Apps, registrations, aliases and tags: who can be pushed to; must never make a revoked token live again.

A token is an HMAC of its triple and of how many tokens of that triple were revoked, so a returning device is found in
RAM by computing it. Numbers of registrations are never reused. Changes are seen at once and undone with a failed
commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from gateway._native.registry import Registry
from gateway.model.cohort import Cohort, build_cohort
from gateway.model.condition import Condition
from gateway.model.errors import GatewayError, UnknownApp, UnknownToken
from gateway.model.opaque_tokens import NO_OPAQUE_TOKENS, OpaqueTokens
from gateway.model.ports import Presence
from gateway.model.registration import (
    NO_PROFILE,
    TOKEN_CHARS,
    App,
    Loss,
    Profile,
    Registration,
    Whereabouts,
    parse_token,
)
from gateway.store.broadcasts import Broadcasts
from gateway.store.changes import any_given, apply_change, distinct, with_profile, without_address
from gateway.store.checks import check_app_name, check_labels, check_profile, check_triple, check_vapid_key
from gateway.store.commit import Committer
from gateway.store.dead import DeadTokens
from gateway.store.deaths import Deaths
from gateway.store.environment import Environment
from gateway.store.groups import Groups
from gateway.store.keys import ServerKeys
from gateway.store.postings import Change, Postings
from gateway.store.records import (
    DELETE,
    PUT,
    Db,
    Row,
    build_app,
    build_registration,
    name_key,
    pack_u32,
    pack_u64,
    parse_app,
    parse_registration,
)
from gateway.store.sealing import Sealer
from gateway.store.tokens import Tokens, device_hash, device_key

NUMBERS_KEY = b"registrations"
#: registration numbers reserved at once in the store
_NUMBERS_BLOCK = 4_096
#: numbers looked at in one part of a pass over all: a fraction of a millisecond, however few of them are wanted
_PART_NUMBERS = 2_048
#: decoded registrations kept in RAM; past it the least recently used is read again
_CACHED = 16_384

_T = TypeVar("_T")
Registered = tuple[Registration, bool, "asyncio.Future[None] | None"]


class Directory:
    """Control thread only; see model.ports.Directory."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        keys: ServerKeys,
        registry: Registry,
        groups: Groups,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], int],
        *,
        next_number: int = 1,
        dead_retention_s: int = 90 * 86_400,
        in_fleet: bool = False,
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._keys = keys
        self._sealer = Sealer(keys.token_key)
        #: links, sessions, token look-up: the edge works on it directly
        self.registry = registry
        self._groups = groups
        self._loop = loop
        self._clock = clock
        #: set before use: rows of the feed of dead tokens
        self.deaths: Deaths | None = None
        #: see the port
        self.seen_ago_s: Callable[[int], int] = lambda _: 0
        #: called with the token in the turn in which it is revoked: what leads to it goes with the same commit
        self.on_revoked: Callable[[bytes], None] = lambda _: None
        self._broadcasts: Broadcasts | None = None
        self._presence: Presence | None = None
        self._apps: dict[str, App] = {}
        self._names: dict[int, str] = {}  # app number → name
        self._next_app = 1
        self._next = max(1, next_number)
        self._reserved = self._next  # numbers below it are covered by a row of META
        self._aliases = Postings(environment, Db.ALIASES)
        self._tags = Postings(environment, Db.TAGS)
        self._devices = Postings(environment, Db.DEVICES)
        self._fresh: dict[int, Registration | None] = {}  # not durable yet; None: revoked
        self._cache: OrderedDict[int, Registration] = OrderedDict()
        self._writes: dict[int, asyncio.Future[None]] = {}  # number → its last write under way
        self._tokens = Tokens(environment, keys.token_key, in_fleet=in_fleet)
        #: set before use: what stands where a token may, and is none
        self.opaque: OpaqueTokens = NO_OPAQUE_TOKENS
        self.dead = DeadTokens(environment, committer, clock, self._names.get, dead_retention_s)

    def attach(self, broadcasts: Broadcasts) -> None:
        """They must know of changed versions and of registrations gone."""
        self._broadcasts = broadcasts

    def watch(self, presence: Presence) -> None:
        """It is told of revocations."""
        self._presence = presence

    # --- apps -----------------------------------------------------------------------------------------------

    def app(self, name: str) -> App | None:
        return self._apps.get(name)

    def app_names(self) -> list[str]:
        return sorted(self._apps)

    def app_number(self, name: str) -> int:
        """0 for an unknown app."""
        app = self._apps.get(name)
        return 0 if app is None else app.number

    def app_numbers(self) -> list[int]:
        return list(self._names)

    def put_app(self, app: App) -> asyncio.Future[App]:
        check_app_name(app.name)
        before = self._apps.get(app.name)
        # in a fleet an app comes with the number that the partition of apps has given it
        number = before.number if before is not None else app.number or self._next_app
        app = replace(app, number=number)

        def undo() -> None:
            if before is None:
                del self._apps[app.name], self._names[number]
            else:
                self._apps[app.name] = before

        written = self._committer.accept(
            [(PUT, Db.APPS, pack_u32(number), build_app(self._sealer.seal(app)))], undo=undo
        )
        self._next_app = max(self._next_app, number + 1)
        self._apps[app.name] = app
        self._names[number] = app.name
        return self._answer(written, app)

    def restore_app(self, app: App) -> None:
        app = self._sealer.open(app)
        self._apps[app.name] = app
        self._names[app.number] = app.name
        self._next_app = max(self._next_app, app.number + 1)

    def export_app(self, name: str) -> bytes | None:
        """Its record as it is stored, secrets sealed: for another partition, which has the same keys."""
        app = self._apps.get(name)
        return None if app is None else build_app(self._sealer.seal(app))

    def import_app(self, raw: bytes) -> asyncio.Future[App]:
        """Put a record that another partition exported; the number it comes with holds here too. ValueError where it
        is none."""
        return self.put_app(self._sealer.open(parse_app(raw)))

    def app_name(self, number: int) -> str | None:
        return self._names.get(number)

    # --- groups ---------------------------------------------------------------------------------------------

    def group(self, app: str, cohort: str) -> int:
        """Dense number of an (app, cohort in its text form)."""
        group = self._groups.number(app, cohort)
        # the data plane asks whose a token is
        self.registry.set_group_app(group, self.app_number(app))
        return group

    def group_app(self, group: int) -> str:
        return self._groups.app(group)

    def group_cohort(self, group: int) -> Cohort:
        return self._groups.cohort(group)

    def cohort(self, number: int) -> Cohort:
        return self._groups.cohort(self.registry.group(number)) if self.registry.has(number) else Cohort("")

    def groups(self, app: str, versions: str, where: Condition | None = None) -> list[int]:
        return self._groups.matching(app, versions, where)

    def by_versions(self, app: str, versions: str, where: Condition | None = None) -> Iterator[list[int]]:
        """One pass over all numbers, as far as it is asked for; no transaction is open in between."""
        groups = set(self._groups.matching(app, versions, where))
        group = self.registry.group
        if groups:
            for part in self.everybody():
                yield [number for number in part if group(number) in groups]

    def everybody(self) -> Iterator[list[int]]:
        end, has = self._next, self.registry.has
        for first in range(1, end, _PART_NUMBERS):
            yield [number for number in range(first, min(first + _PART_NUMBERS, end)) if has(number)]

    def stop(self) -> None:
        """The next start goes on without a gap in the numbers."""
        self._committer.keep([(PUT, Db.META, NUMBERS_KEY, pack_u64(self._next))])

    # --- look-up --------------------------------------------------------------------------------------------

    def find(self, token: str, app: str) -> int:
        raw = parse_token(token)
        if raw is None:
            return self.opaque.find(token, app)
        number = self.registry.find(raw)
        # unknown, revoked and foreign tokens are the same to whoever asks
        return number if number >= 0 and self._groups.app(self.registry.group(number)) == app else -1

    def reach(self, token: str, app: str) -> int:
        return self.find(token, app) if len(token) == TOKEN_CHARS else self.opaque.reach(token, app)

    def known(self, device: str, app: str, account: str) -> tuple[bytes, int, int]:
        """(token, generation, number) of a triple; the number is -1 where it has no live registration."""
        token, generation = self._tokens.build(device, app, account, 0), 0
        number = self.registry.find(token)
        if number < 0 and (generation := self._tokens.revoked(token)):
            token, number = self._tokens.current(device, app, account, generation, self.registry.find)
        return token, generation, number

    def locate(self, token: bytes) -> Whereabouts:
        number = self.registry.find(token)
        # read for live ones too: how long a look-up takes must not tell which it was
        dead = self.dead.find(token)
        return Whereabouts(number, None) if number >= 0 else Whereabouts(-1, dead)

    def registration(self, number: int) -> Registration | None:
        if number in self._fresh:
            return self._fresh[number]
        cached = self._cache.get(number)
        if cached is not None:
            self._cache.move_to_end(number)
            return cached
        if not 0 <= number < 1 << 31:
            return None
        raw = self._environment.get(Db.REGISTRATIONS, pack_u32(number))
        if raw is None:
            return None
        registration = self._cache[number] = parse_registration(raw)
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return registration

    def device_of(self, number: int) -> str | None:
        return registration.device if (registration := self.registration(number)) is not None else None

    def by_alias(self, app: str, alias: str) -> list[int]:
        number = self.app_number(app)
        return self._aliases.of(name_key(number, alias)) if number and alias else []

    def by_tag(self, app: str, tag: str) -> Sequence[int]:
        number = self.app_number(app)
        return self._tags.of(name_key(number, tag)) if number and tag else []

    def device_key(self, device: str) -> int:
        """64-bit keyed hash of a device id, never 0."""
        return device_key(self._keys.hash_key, device)

    def device_registrations(self, device: str) -> list[int]:
        """All live registrations of a device, ascending."""
        return self._devices.of(self._device_hash(device))

    def _device_hash(self, device: str) -> bytes:
        return device_hash(self._keys.hash_key, device)

    # --- registering ----------------------------------------------------------------------------------------

    def register(
        self,
        device: str,
        app: str,
        version: str,
        account: str,
        *,
        alias: str | None = None,
        tags: Sequence[str] | None = None,
        addresses: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
        profile: Profile = NO_PROFILE,
        vapid_key: str | None = None,
    ) -> Registered:
        """A1: the live token of (device, app, account), made where there is none. Usable at once.

        Returns (registration, created, future): TOKEN is answered when the future resolves; None: nothing was written.
        Where nothing but the triple and the version was given and nothing changed, the store is not read, and the
        registration returned has no alias, tags, addresses or fallback.
        """
        check_triple(device, app, version, account)
        check_labels(alias, tags, addresses, fallback)
        check_profile(profile)
        check_vapid_key(vapid_key)
        if app not in self._apps:
            raise UnknownApp()
        token, generation, number = self.known(device, app, account)
        if number < 0:
            registration = Registration(
                number=self._next,
                token=token,
                device=device,
                app=app,
                version=version,
                account=account,
                alias=alias or "",
                tags=distinct(tags or ()),
                addresses=dict(addresses or {}),
                fallback=None if fallback is None else list(fallback),
                created_at=self._clock() // 1_000,
                generation=generation,
                os=profile.os or "",
                locale=profile.locale or "",
                timezone=profile.timezone or "",
                quiet=profile.quiet or "",
                vapid_key=vapid_key or "",
            )
            return registration, True, self._create(registration)
        cohort = self._groups.cohort(self.registry.group(number))
        is_as_before = cohort == with_profile(cohort, version, profile) and not self.registry.signed_out(number)
        if is_as_before and not any_given(alias, tags, addresses, fallback, vapid_key):
            known = Registration(
                number=number,
                token=token,
                device=device,
                app=app,
                version=version,
                account=account,
                generation=generation,
            )
            return known, False, self._under_way(number)
        before = self._existing(number)
        changed = apply_change(before, alias, tags, addresses, fallback, version, profile, self._clock())
        changed.signed_out, changed.vapid_key = False, before.vapid_key if vapid_key is None else vapid_key
        if changed == before:
            return before, False, self._under_way(number)
        return changed, False, self._change(before, changed, asked=True)

    def update(
        self,
        number: int,
        *,
        alias: str | None = None,
        tags: Sequence[str] | None = None,
        addresses: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
        profile: Profile = NO_PROFILE,
    ) -> asyncio.Future[Registration]:
        """UnknownToken where it is not live."""
        check_labels(alias, tags, addresses, fallback)
        check_profile(profile)
        before = self._existing(number)
        changed = apply_change(before, alias, tags, addresses, fallback, before.version, profile, self._clock())
        written = self._under_way(number) if changed == before else self._change(before, changed)
        return self._answer(written, changed)

    def sign_out(self, number: int) -> asyncio.Future[None]:
        """A5: this account is not in use on its device now; until it registers again nothing for it may leave the
        gateway, by no channel. In force at once, durable when the future resolves."""
        before = self._existing(number)
        after = replace(before, signed_out=True)
        written = self._under_way(number) if after == before else self._change(before, after)
        return self._answer(written, None)

    def _existing(self, number: int) -> Registration:
        registration = self.registration(number)
        if registration is None:
            raise UnknownToken()
        return registration

    def _create(self, registration: Registration) -> asyncio.Future[None]:
        number = registration.number
        group = self.group(registration.app, build_cohort(registration.cohort))
        changes = self._changes(None, registration)
        rows: list[Row] = [(PUT, Db.REGISTRATIONS, pack_u32(number), self._build(registration))]
        reserved = self._reserved
        if number >= reserved:
            reserved = number + _NUMBERS_BLOCK
            rows.append((PUT, Db.META, NUMBERS_KEY, pack_u64(reserved)))
        rows += [change.row for change in changes]

        def undo() -> None:
            self.registry.remove(number, registration.token)
            if self._broadcasts is not None:
                self._broadcasts.forget(number)
            self._reserved = min(self._reserved, number)
            self._settled(number, registration, changes)

        written = self._write(number, registration, rows, changes, undo)
        self._next += 1
        self._reserved = reserved
        self.registry.add(number, registration.token, group)
        self._set_flags(registration)
        return written

    def _change(
        self, before: Registration, after: Registration, more: Sequence[Row] = (), *, asked: bool = False
    ) -> asyncio.Future[None]:
        """`asked`: by its device, see model.ports.Presence."""
        number = before.number
        changes = self._changes(before, after)
        old_group = self.registry.group(number)
        new_group = self.group(after.app, build_cohort(after.cohort))

        def undo() -> None:
            if self.registry.has(number):
                self._set_flags(before)
            if old_group != new_group and self.registry.has(number):
                self._move(number, old_group, asked=False)
            self._settled(number, after, changes)

        rows: list[Row] = [(PUT, Db.REGISTRATIONS, pack_u32(number), self._build(after)), *more]
        written = self._write(number, after, rows + [change.row for change in changes], changes, undo)
        self._set_flags(after)
        if old_group != new_group:
            self._move(number, new_group, asked=asked)
        return written

    def _set_flags(self, registration: Registration) -> None:
        number = registration.number
        self.registry.set_signed_out(number, registration.signed_out)
        self.registry.set_plain(number, registration.fallback is None)
        self.registry.set_quiet(number, bool(registration.quiet))

    def _move(self, number: int, group: int, *, asked: bool) -> None:
        if self._broadcasts is not None:
            self._broadcasts.move(number, group)
        else:
            self.registry.set_group(number, group)
        if self._presence is not None:
            self._presence.moved(number, asked=asked)

    def revoke(self, number: int, reason: Loss = Loss.REVOKED) -> asyncio.Future[None]:
        """The token is dead at once and for good. Its row goes; its outcomes stay as long as all history does."""
        registration = self.registration(number)
        if registration is None:
            return self._answer(None, None)
        first = self._tokens.build(registration.device, registration.app, registration.account, 0)
        group, cursor = self.registry.group(number), self.registry.cursor(number)
        changes = self._changes(registration, None)
        rows: list[Row] = [
            (DELETE, Db.REGISTRATIONS, pack_u32(number), b""),
            (PUT, Db.TOMBSTONES, first, pack_u32(registration.generation + 1)),
            *self._death(registration, "revoked"),
            *(change.row for change in changes),
        ]
        burial, dead_rows = self.dead.bury(registration.token, self.app_number(registration.app), reason)
        rows += dead_rows

        def undo() -> None:
            self.dead.settled(burial)
            self.registry.add(number, registration.token, group, cursor)
            self._set_flags(registration)
            self._tokens.tombstones.pop(first, None)
            self._settled(number, None, changes)
            if self._presence is not None:
                self._presence.returned(registration)

        def done_() -> None:
            self.dead.settled(burial)
            if self._tokens.tombstones.get(first) == registration.generation + 1:
                del self._tokens.tombstones[first]

        try:
            written = self._write(number, None, rows, changes, undo, done_)
        except BaseException:
            self.dead.settled(burial)
            raise
        if self._presence is not None:
            self._presence.leaving(registration)
        self.registry.remove(number, registration.token)
        self._tokens.tombstones[first] = registration.generation + 1
        if self._broadcasts is not None:
            self._broadcasts.forget(number)
        self.on_revoked(registration.token)
        return written

    def address_gone(self, number: int, channel: str, address: str, gone_at_ms: int) -> bool:
        before = self.registration(number)
        if before is None or (after := without_address(before, channel, address, gone_at_ms)) is None:
            return False
        # Nobody waits for it: where the store can not be written now, the notifier will say so again.
        with contextlib.suppress(GatewayError):
            self._change(before, after, self._death(before, "gone", channel))
        return True

    def _death(self, registration: Registration, why: str, channel: str = "") -> list[Row]:
        if self.deaths is None:
            return []
        return [self.deaths.row(self.app_number(registration.app), registration.token, why, channel)]

    # --- rows -----------------------------------------------------------------------------------------------

    def _write(
        self,
        number: int,
        registration: Registration | None,
        rows: list[Row],
        changes: list[Change],
        undo: Callable[[], None],
        done: Callable[[], None] | None = None,
    ) -> asyncio.Future[None]:
        def landed() -> None:
            if done is not None:
                done()
            self._settled(number, registration, changes)

        try:
            written = self._committer.accept(rows, undo=undo, done=landed)
        except BaseException:
            for change in changes:
                change.postings.settled(change)
            raise
        self._fresh[number] = registration
        self._cache.pop(number, None)
        self._writes[number] = written
        if self.deaths is not None:
            self.deaths.follow(written)
        # not the write's own future: a caller that gives up must not make it look done
        return self._answer(written, None)

    def _settled(self, number: int, registration: Registration | None, changes: list[Change]) -> None:
        """Durable or undone: what the store says holds again, unless a later write is under way."""
        for change in changes:
            change.postings.settled(change)
        if number in self._fresh and self._fresh[number] is registration:
            del self._fresh[number]
            self._cache.pop(number, None)
            self._writes.pop(number, None)

    def _changes(self, before: Registration | None, after: Registration | None) -> list[Change]:
        one = after if after is not None else before
        if one is None:
            return []
        app = self.app_number(one.app)
        number = one.number
        changes: list[Change] = []

        def differ(postings: Postings, old: set[bytes], new: set[bytes]) -> None:
            changes.extend(postings.change(key, number, added=False) for key in sorted(old - new))
            changes.extend(postings.change(key, number, added=True) for key in sorted(new - old))

        def keys(names: Sequence[str]) -> set[bytes]:
            return {name_key(app, name) for name in names if name}

        differ(self._aliases, keys([before.alias] if before else []), keys([after.alias] if after else []))
        differ(self._tags, keys(before.tags if before else []), keys(after.tags if after else []))
        device = {self._device_hash(one.device)}
        differ(self._devices, device if before else set(), device if after else set())
        return changes

    def _build(self, registration: Registration) -> bytes:
        return build_registration(registration, self.app_number(registration.app))

    def _under_way(self, number: int) -> asyncio.Future[None] | None:
        """A write of this registration that is not durable yet: its answer must wait for it too."""
        written = self._writes.get(number)
        return None if written is None or written.done() else self._answer(written, None)

    def _answer(self, written: asyncio.Future[None] | None, value: _T) -> asyncio.Future[_T]:
        answer: asyncio.Future[_T] = self._loop.create_future()

        def on_written(future: asyncio.Future[None]) -> None:
            if answer.done():
                return
            error = None if future.cancelled() else future.exception()
            if future.cancelled():
                answer.cancel()
            elif error is not None:
                answer.set_exception(error)
                answer.exception()  # a caller that went away is no reason for a warning
            else:
                answer.set_result(value)

        if written is None:
            answer.set_result(value)
        else:
            written.add_done_callback(on_written)
        return answer
