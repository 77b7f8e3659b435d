"""The rules of a fleet's history can fail: each, broken in the smallest way, is found, and its lawful neighbour is not.
Not chaos itself: these run with the fast tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_checks import check, figures, verdict
from fleet_history import (
    Acked,
    Answered,
    Asked,
    Became,
    Bound,
    Fault,
    Frame,
    History,
    LinkDown,
    LinkUp,
    Looked,
    RecallAsked,
    Recalled,
    Receipted,
    Settled,
    Shown,
    Stopped,
    Tried,
)

ANN, BOB = "0/shop/ann", "1/shop/bob"


class Tale:
    """A history told in words; each takes a second."""

    def __init__(self, file: Path | None = None) -> None:
        self.now = 100.0
        self.history = History(file, lambda: self.now)
        self._links = 0

    def _note(self, event: object) -> None:
        self.now += 1
        self.history.note(event)  # type: ignore[arg-type]

    def ask(self, op: str, *regs: str, **about: object) -> None:
        about = {"kind": "token", "app": "shop", "wanted": list(regs or (ANN,)), **about}
        self._note(Asked(op=op, **about))  # type: ignore[arg-type]
        self._note(Tried(op=op, node="g1"))

    def answer(self, op: str, status: int = 201, id: str = "", **more: object) -> None:
        self._note(Answered(op=op, node="g1", status=status, id=id or f"id of {op}", **more))  # type: ignore[arg-type]

    def push(self, op: str, *regs: str, **about: object) -> None:
        self.ask(op, *regs, **about)
        self.answer(op)

    def link(self, device: int = 0) -> int:
        self._links += 1
        self._note(LinkUp(link=self._links, device=device, node="g1"))
        return self._links

    def down(self, link: int) -> None:
        self._note(LinkDown(link=link))

    def frame(self, link: int, op: str, id: int, reg: str = ANN) -> None:
        self._note(Frame(link=link, reg=reg, id=id, op=op))

    def get(self, link: int, op: str, id: int, reg: str = ANN) -> None:
        """The frame, the message in the app, the ack and its receipt."""
        self.frame(link, op, id, reg)
        self._note(Shown(reg=reg, id=id, op=op))
        self._note(Acked(link=link, ids=[id]))

    def receipt(self, op: str, id: int, state: str = "acked", reg: str = ANN, cursor: int = 0) -> None:
        cursor = cursor or int(self.now)
        self._note(Receipted(app="shop", cursor=cursor, push=f"id of {op}", delivery=id, reg=reg, state=state))

    def fault(self, seconds: float = 1.0) -> None:
        self._note(Fault(number=1, name="kill", target="g1", begins=True))
        self.now += seconds
        self._note(Fault(number=1, name="kill", target="g1", begins=False))

    def deliver(self, op: str, id: int, *, reg: str = ANN, link: int = 0) -> None:
        """All of a push's life, in good order."""
        self.push(op, reg)
        self.get(link or self.link(int(reg[0])), op, id, reg)
        self.receipt(op, id, reg=reg)

    @property
    def broken(self) -> set[str]:
        return {rule for rule, _ in check(self.history)}


@pytest.fixture
def tale() -> Tale:
    return Tale()


def test_a_good_life_breaks_nothing(tale: Tale) -> None:
    tale.deliver("p", 5)
    tale.deliver("q", 6, reg=BOB)
    assert check(tale.history) == []
    assert figures(tale.history)["answered 201"] == 2


def test_what_was_answered_and_did_not_come_is_lost(tale: Tale) -> None:
    tale.push("p", ANN, BOB)
    tale.get(tale.link(), "p", 5)
    tale.receipt("p", 5)
    tale.receipt("p", 6, "acked", BOB)
    assert "lost" in tale.broken
    assert "1/shop/bob" in verdict(check(tale.history))


def test_what_was_recalled_or_ran_out_of_time_is_not_lost(tale: Tale) -> None:
    tale.push("p")
    tale._note(RecallAsked(op="p"))
    tale._note(Recalled(op="p", status=200))
    tale.receipt("p", 5, "recalled")
    tale.push("q", ttl_s=1)
    tale.receipt("q", 6, "expired")
    assert check(tale.history) == []


def test_what_a_newer_one_replaced_is_not_lost_where_it_has_a_key_for_that(tale: Tale) -> None:
    tale.push("p", collapse=True)
    tale.receipt("p", 5, "replaced")
    assert check(tale.history) == []
    tale.push("q", collapse=True)
    assert tale.broken == {"lost", "ends"}


def test_what_ends_as_expired_before_its_time_is_found(tale: Tale) -> None:
    tale.push("p")
    tale.receipt("p", 5, "expired")
    assert tale.broken == {"lost", "ends"}


def test_what_was_in_doubt_may_come_once_or_never(tale: Tale) -> None:
    for op in ("p", "q"):
        tale.ask(op)
        tale.answer(op, 0)
    tale.ask("r")
    tale.answer("r", 503, retry_after=True)
    tale.get(tale.link(), "p", 5)
    tale.receipt("p", 5)
    assert check(tale.history) == []
    assert figures(tale.history)["of those delivered"] == 1


def test_what_was_in_doubt_and_comes_as_two_is_found(tale: Tale) -> None:
    tale.ask("p")
    tale.answer("p", 0)
    link = tale.link()
    tale.get(link, "p", 5)
    tale.get(link, "p", 6)
    assert {"identity", "twice"} <= tale.broken


def test_what_comes_to_another_or_was_never_sent_is_found(tale: Tale) -> None:
    tale.deliver("p", 5)
    tale.frame(tale.link(1), "p", 5, BOB)
    assert "strange" in tale.broken
    other = Tale()
    other.frame(other.link(), "never", 5)
    assert other.broken == {"strange"}
    other = Tale()
    other.deliver("p", 5)
    other.frame(other.link(), "p", 5, "")
    assert "strange" in other.broken


def test_a_message_shown_twice_is_found_and_a_frame_that_came_twice_is_not(tale: Tale) -> None:
    tale.push("p")
    tale.frame(tale.link(), "p", 5)
    tale.get(tale.link(), "p", 5)
    tale.receipt("p", 5)
    assert check(tale.history) == []
    assert figures(tale.history)["frames of what was on its way"] == 1
    tale._note(Shown(reg=ANN, id=5, op="p"))
    assert tale.broken == {"twice"}


def test_a_frame_on_a_link_opened_after_the_receipt_of_its_ack_is_found(tale: Tale) -> None:
    before = tale.link()
    tale.deliver("p", 5, link=before)
    tale.frame(before, "p", 5)  # it was on its way
    assert check(tale.history) == []
    tale.frame(tale.link(), "p", 5)
    assert tale.broken == {"twice"}


def test_what_was_recalled_may_not_come_on_a_later_link(tale: Tale) -> None:
    before = tale.link()
    tale.push("p")
    tale._note(RecallAsked(op="p"))
    tale._note(Recalled(op="p", status=200))
    tale.receipt("p", 5, "recalled")
    tale.frame(before, "p", 5)
    assert check(tale.history) == []
    tale.frame(tale.link(), "p", 5)
    assert tale.broken == {"recalled"}


def test_a_recall_takes_back_what_one_spool_kept(tale: Tale) -> None:
    def recalled_of(*ids: str) -> Tale:
        told = Tale()
        told.ask("p")
        told.answer("p", 202, id=ids[0])
        told._note(RecallAsked(op="p"))
        told._note(Recalled(op="p", status=200))
        for again in ids[1:]:
            told.answer("p", 202, id=again)
        told._note(Became(op="p", id="id of p"))
        told.get(told.link(), "p", 5)
        return told

    assert "recalled" in recalled_of("in one").broken
    assert "recalled" in recalled_of("in one", "in one").broken
    assert "recalled" not in recalled_of("in one", "in another").broken


def test_a_key_has_one_id_and_one_201(tale: Tale) -> None:
    tale.ask("p", key=True)
    tale.answer("p", 0)
    tale.answer("p", 201)
    tale.answer("p", 200)
    tale.get(tale.link(), "p", 5)
    tale.receipt("p", 5)
    assert check(tale.history) == []
    tale.answer("p", 200, id="another")
    assert tale.broken == {"identity"}
    tale.answer("p", 201)
    assert tale.broken == {"identity", "answers"}


def test_an_id_means_one_thing(tale: Tale) -> None:
    link = tale.link()
    tale.deliver("p", 5, link=link)
    tale.push("q", key=True)
    tale.get(link, "q", 5)
    assert "identity" in tale.broken
    other = Tale()
    other.push("p")
    other.ask("q")
    other.answer("q", id="id of p")
    assert "identity" in other.broken


@pytest.mark.parametrize(
    ("status", "more"), [(404, {"error": "unknown_token"}), (500, {}), (503, {}), (200, {}), (409, {})]
)
def test_an_answer_that_no_fault_explains_is_found(tale: Tale, status: int, more: dict[str, object]) -> None:
    tale.ask("p")
    tale.answer("p", status, **more)
    assert "answers" in tale.broken


def test_a_push_that_overtakes_is_found(tale: Tale) -> None:
    link = tale.link()
    tale.push("p")
    tale.push("q")
    tale.get(link, "q", 6)
    tale.get(link, "p", 5)
    tale.receipt("q", 6)
    tale.receipt("p", 5)
    assert tale.broken == {"order"}


def test_a_push_may_overtake_what_was_not_answered_yet(tale: Tale) -> None:
    link = tale.link()
    tale.ask("p")
    tale.push("q")
    tale.answer("p")
    tale.get(link, "q", 6)
    tale.get(link, "p", 5)
    tale.receipt("q", 6)
    tale.receipt("p", 5)
    assert check(tale.history) == []


def test_a_push_may_overtake_what_another_link_or_a_fault_took_in_vain(tale: Tale) -> None:
    tale.push("p")
    tale.down(tale.link())
    tale.push("q")
    link = tale.link()
    tale.get(link, "q", 6)
    tale.get(link, "p", 5)
    tale.receipt("q", 6)
    tale.receipt("p", 5)
    assert check(tale.history) == []
    other = Tale()
    link = other.link()
    other.push("p")
    other.fault()
    other.push("q")
    other.get(link, "q", 6)
    other.get(link, "p", 5)
    other.receipt("q", 6)
    other.receipt("p", 5)
    assert check(other.history) == []
    assert figures(other.history)["overtaken at a fault"] == 1


def test_a_fault_long_ago_excuses_nothing(tale: Tale) -> None:
    link = tale.link()
    tale.fault()
    tale.now += 1_000
    tale.push("p")
    tale.push("q")
    tale.get(link, "q", 6)
    tale.get(link, "p", 5)
    assert "order" in tale.broken


def test_a_feed_that_falls_repeats_passes_over_or_forgets_is_found(tale: Tale) -> None:
    tale.deliver("p", 5)
    tale.receipt("p", 5)
    assert tale.broken == {"feed"}
    other = Tale()
    other.deliver("p", 5)
    other.push("q")
    other.get(other.link(), "q", 6)
    other.receipt("q", 6, cursor=1)
    assert other.broken == {"feed"}
    for passed_over in (True, False):
        other = Tale()
        other.deliver("p", 5)
        cursor = other.history.events[-1].cursor  # type: ignore[attr-defined]
        lines = [(cursor, "id of p", 5), (cursor + 50, "id of r", 9)] if passed_over else [(cursor + 1, "id of p", 5)]
        for at, push, delivery in lines:
            row = Receipted(app="shop", cursor=at, push=push, delivery=delivery, reg=ANN, state="acked", whole=True)
            other._note(row)
        assert other.broken == {"feed"}


def test_a_push_without_its_receipts_or_with_the_wrong_end_is_found(tale: Tale) -> None:
    tale.push("p")
    tale.get(tale.link(), "p", 5)
    assert tale.broken == {"ends"}
    for state in ("recalled", "rejected", "replaced"):
        other = Tale()
        other.push("p")
        other.get(other.link(), "p", 5)
        other.receipt("p", 5, state)
        assert other.broken == {"ends"}
    other = Tale()
    other.push("p")
    other.frame(other.link(), "p", 5)
    other._note(Shown(reg=ANN, id=5, op="p"))
    other.receipt("p", 5)
    assert other.broken == {"ends"}  # acked, and the device acked nothing


def test_only_an_ack_before_a_commit_that_a_fault_cut_off_explains_a_push_without_receipts(tale: Tale) -> None:
    def story(*, key: bool = False, ack_first: bool = True, fault: bool = True, kind: str = "token") -> set[str]:
        tale = Tale()
        tale.ask("p", key=key, kind=kind, kept=kind == "scheduled")
        link = tale.link()
        if ack_first:
            tale.get(link, "p", 5)
        tale.answer("p")
        if not ack_first:
            tale.get(link, "p", 5)
        if fault:
            tale.fault()
            tale.history.events[-2].at = tale.now - 10
        tale._note(Looked(op="p", node="g2", status=404))
        return tale.broken

    assert story() == set()
    assert story(kind="scheduled") == set()  # its time had come when it was taken
    assert story(key=True) == {"ends"}
    assert story(ack_first=False) == {"ends"}
    assert story(fault=False) == {"ends"}


def test_a_look_up_that_tells_otherwise_is_found(tale: Tale) -> None:
    tale.deliver("p", 5)
    tale._note(Looked(op="p", node="g1", status=200, state="done", deliveries=[(ANN, "acked")]))
    assert check(tale.history) == []
    tale._note(Looked(op="p", node="g2", status=200, state="pending", deliveries=[(ANN, "sent")]))
    assert tale.broken == {"ends"}
    other = Tale()
    other.deliver("p", 5)
    other._note(Looked(op="p", node="g3", status=404))
    assert other.broken == {"ends"}


def test_a_broadcast_has_one_id_for_all(tale: Tale) -> None:
    tale.push("all", ANN, BOB, broadcast=True)
    tale.get(tale.link(0), "all", 4)
    tale.get(tale.link(1), "all", 4, BOB)
    assert check(tale.history) == []


def test_a_token_that_changes_and_a_device_that_gives_up_are_found(tale: Tale) -> None:
    tale._note(Bound(reg=ANN, token="a"))
    tale._note(Bound(reg=ANN, token="a"))
    assert check(tale.history) == []
    tale._note(Bound(reg=ANN, token="b"))
    assert tale.broken == {"devices"}
    other = Tale()
    other._note(Stopped(device=0, error="takeover"))
    assert other.broken == {"devices"}


def test_what_a_spool_keeps_comes_once_it_is_a_push(tale: Tale) -> None:
    tale.ask("p")
    tale.answer("p", 202, id="of the spool")
    assert tale.broken == {"lost", "ends"}
    tale._note(Became(op="p", id="id of p"))
    tale.get(tale.link(), "p", 5)
    tale.receipt("p", 5)
    assert check(tale.history) == []
    other = Tale()
    other.ask("p", ttl_s=1)
    other.answer("p", 202, id="of the spool")
    other._note(Became(op="p", state="expired"))
    assert check(other.history) == []
    other._note(Became(op="p", state="refused"))
    assert other.broken == {"ends"}


def test_a_history_is_read_back_as_it_was_told(tmp_path: Path) -> None:
    tale = Tale(tmp_path / "history.jsonl")
    tale.deliver("p", 5)
    tale.fault()
    tale._note(Settled())
    tale.history.close()
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"what":"asked","op":"cut o')
    again = History.read(tmp_path / "history.jsonl")
    assert again.events == tale.history.events
    assert figures(again) == figures(tale.history)
