"""What a REGISTER or a provider's change makes of a registration; pure functions, and must never touch the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from gateway.model.cohort import Cohort
from gateway.model.registration import Profile, Registration


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
) -> Registration:
    """The registration with what was said of it; None leaves a field as it is."""
    return replace(
        before,
        alias=before.alias if alias is None else alias,
        tags=before.tags if tags is None else distinct(tags),
        addresses=before.addresses if addresses is None else dict(addresses),
        fallback=before.fallback if fallback is None else list(fallback),
        **with_profile(before.cohort, version, profile)._asdict(),
    )
