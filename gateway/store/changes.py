"""What a REGISTER or a provider's change makes of a registration; pure functions, and must never touch the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from gateway.model.cohort import Cohort
from gateway.model.registration import Profile, Registration

#: that a device still has the address it had is written so often at most: it says so at every start
_SAID_AGAIN_MS = 86_400_000


def any_given(*labels: object) -> bool:
    """Was anything but None said?"""
    return any(label is not None for label in labels)


def with_profile(before: Cohort, version: str, profile: Profile) -> Cohort:
    """The cohort a registration moves to."""
    return before._replace(
        version=version, **{name: value for name, value in profile._asdict().items() if value is not None}
    )


def distinct(tags: Sequence[str]) -> list[str]:
    """Each once, in their order."""
    return list(dict.fromkeys(tags))


def apply_change(
    before: Registration,
    alias: str | None,
    tags: Sequence[str] | None,
    addresses: Mapping[str, str] | None,
    fallback: Sequence[str] | None,
    version: str,
    profile: Profile,
    now_ms: int,
) -> Registration:
    """The registration with what was said of it; None leaves a field as it is."""
    return replace(
        before,
        alias=before.alias if alias is None else alias,
        tags=before.tags if tags is None else distinct(tags),
        addresses=before.addresses if addresses is None else dict(addresses),
        addressed_at=before.addressed_at if addresses is None else _addressed_at(before, addresses, now_ms),
        fallback=before.fallback if fallback is None else list(fallback),
        **with_profile(before.cohort, version, profile)._asdict(),
    )


def _addressed_at(before: Registration, addresses: Mapping[str, str], now_ms: int) -> dict[str, int]:
    times = {}
    for channel, address in addresses.items():
        at_ms = _registered_at_ms(before, channel)
        if before.addresses.get(channel) != address or now_ms - at_ms >= _SAID_AGAIN_MS:
            times[channel] = now_ms
        elif channel in before.addressed_at:
            times[channel] = at_ms
    return times


def _registered_at_ms(registration: Registration, channel: str) -> int:
    return registration.addressed_at.get(channel, registration.created_at * 1_000)


def without_address(before: Registration, channel: str, address: str, gone_at_ms: int) -> Registration | None:
    """What is left where an address is dead since then (0: it is not said when). None: it has it no more, or has
    registered it since; then it is a good one again (Apple, "Handling notification responses from APNs": 410)."""
    if before.addresses.get(channel) != address or 0 < gone_at_ms < _registered_at_ms(before, channel):
        return None
    return replace(
        before,
        addresses={name: at for name, at in before.addresses.items() if name != channel},
        addressed_at={name: at_ms for name, at_ms in before.addressed_at.items() if name != channel},
    )
