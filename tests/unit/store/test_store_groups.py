"""Groups: places of versions that nobody has any more are found again, numbers never are given twice."""

from __future__ import annotations

import pytest

from gateway.model.errors import QueueFull
from gateway.store import groups as module
from gateway.store.groups import Groups


def test_versions_nobody_has_make_room_and_their_numbers_stay_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS_PER_APP", 3)
    populations: dict[int, int] = {}
    groups = Groups(lambda group: populations.get(group, 0))
    first, kept, third = (groups.number("shop", version) for version in ("1.0", "2.0", "3.0"))
    populations[kept] = 1
    later = groups.number("shop", "4.0")
    assert later > third
    assert groups.matching("shop", ">=1") == [kept, later]
    assert groups.number("shop", "2.0") == kept
    assert groups.number("shop", "1.0") not in (first, kept, third, later)


def test_more_versions_in_use_than_allowed_are_refused_for_that_app_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS_PER_APP", 2)
    groups = Groups(lambda _group: 1)
    groups.number("shop", "1.0")
    groups.number("shop", "2.0")
    with pytest.raises(QueueFull, match="versions"):
        groups.number("shop", "3.0")
    groups.number("other", "3.0")
