"""Groups: places of versions that nobody has any more are found again, numbers never are given twice."""

from __future__ import annotations

import pytest

from gateway.model.errors import QueueFull
from gateway.store import groups as module
from gateway.store.groups import Groups, Matcher


def test_versions_nobody_has_make_room_and_their_numbers_rest_before_they_are_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS_PER_APP", 3)
    populations: dict[int, int] = {}
    now = [0.0]
    groups = Groups(lambda group: populations.get(group, 0), lambda: now[0])
    first, kept, third = (groups.number("shop", version) for version in ("1.0", "2.0", "3.0"))
    populations[kept] = 1
    later = groups.number("shop", "4.0")
    assert later > third
    assert groups.matching("shop", ">=1") == [kept, later]
    assert groups.number("shop", "2.0") == kept
    again = groups.number("shop", "1.0")
    assert again not in (first, kept, third, later)
    matches = Matcher(groups, "shop", ">=5")
    assert not matches(first)
    now[0] = module.REST_S
    assert groups.number("shop", "5.0") == first
    assert matches(first), "what was decided of the number before is forgotten"
    assert groups.matching("shop", ">=5") == [first]


def test_an_app_whose_places_are_all_taken_is_not_looked_through_at_each_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS_PER_APP", 2)
    asked: list[int] = []
    now = [0.0]
    groups = Groups(lambda group: asked.append(group) or 1, lambda: now[0])
    groups.number("shop", "1.0")
    groups.number("shop", "2.0")
    for _ in range(5):
        with pytest.raises(QueueFull):
            groups.number("shop", "3.0")
    assert len(asked) == 2
    now[0] = module.RETIRE_S
    with pytest.raises(QueueFull):
        groups.number("shop", "3.0")
    assert len(asked) == 4


def test_more_versions_in_use_than_allowed_are_refused_for_that_app_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS_PER_APP", 2)
    groups = Groups(lambda _group: 1)
    groups.number("shop", "1.0")
    groups.number("shop", "2.0")
    with pytest.raises(QueueFull, match="versions"):
        groups.number("shop", "3.0")
    groups.number("other", "3.0")


def test_whoever_changes_a_cohort_again_and_again_leaves_few_groups_for_a_broadcast_to_look_at() -> None:
    now = [0.0]
    populated = {7: 1}
    groups = Groups(lambda group: populated.get(group, 0), lambda: now[0])
    most = 0
    for n in range(10 * module.RETIRE_FROM):
        now[0] += module.RETIRE_S / module.RETIRE_FROM
        groups.number("shop", f"1.0.{n}")
        most = max(most, len(groups.matching("shop", "")))
    assert most <= module.RETIRE_FROM + 1
    assert 7 in groups.matching("shop", "")
