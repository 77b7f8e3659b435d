"""The record of the kill test can fail: each rule, broken in the smallest way, is found, and its lawful neighbour is
not. Not chaos itself: these run with the fast tests.
"""

from __future__ import annotations

import pytest
from chaos_ledger import Ledger, LinkMark, Push

ANN, BOB = 0, 1


class Story:
    """A ledger with a process, and the words of a run."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.generation = 1
        for device in (ANN, BOB):
            self.ledger.token(device, f"token {device}", created=True)

    def push(self, mark: str, *devices: int, broadcast: bool = False, key: str = "", answered: bool = True) -> Push:
        push = self.ledger.intend(Push(mark, "test", frozenset(devices or (ANN,)), broadcast, key))
        if answered:
            targeted = None if broadcast else len(push.expected)
            self.ledger.accepted(push, f"id of {mark}", replay=False, targeted=targeted)
        return push

    def link(self, device: int = ANN) -> LinkMark:
        return self.ledger.opened(device, self.generation)

    def kill(self) -> None:
        self.generation += 1

    def get(self, link: LinkMark, note_id: int, mark: str = "p") -> None:
        self.ledger.notified(link, note_id, mark, whole=True)

    def ack(self, link: LinkMark, note_id: int, *, processed: bool = True, durable: bool = False) -> None:
        self.ledger.ack_sent(link, note_id)
        if processed:
            self.ledger.processed(link, [note_id])
        if durable:
            self.ledger.durable(self.ledger.unproved(link.generation))

    @property
    def broken(self) -> list[str]:
        return self.ledger.violations


@pytest.fixture
def story() -> Story:
    return Story()


def test_what_was_answered_and_not_received_is_missing(story: Story) -> None:
    story.push("p", ANN, BOB)
    story.push("q", ANN, answered=False)
    story.get(story.link(ANN), 5)
    assert story.ledger.missing() == {BOB: ["p (test)"]}
    story.get(story.link(BOB), 6)
    assert not story.ledger.missing()
    assert not story.broken


def test_a_light_form_is_not_the_message(story: Story) -> None:
    story.push("p")
    story.ledger.notified(story.link(), 5, "p", whole=False)
    assert story.ledger.missing() == {ANN: ["p (test)"]}


def test_a_recalled_push_is_not_missing_and_may_not_come_later(story: Story) -> None:
    push = story.push("p")
    before = story.link()
    story.ledger.recall_asked(push)
    story.ledger.recalled(push)
    story.get(before, 5)  # it was on its way
    assert not story.ledger.missing()
    assert not story.broken
    story.get(story.link(), 5)
    assert story.broken


def test_what_was_refused_may_not_come_later(story: Story) -> None:
    push = story.push("p", answered=False)
    before = story.link()
    story.ledger.refused(push)
    story.get(before, 5)  # sent before the disk said no, and taken back behind it
    assert not story.broken
    story.get(story.link(), 5)
    assert "was refused before" in story.broken[0]


def test_an_unacked_one_may_come_again_with_its_id(story: Story) -> None:
    story.push("p")
    for _ in range(3):
        story.get(story.link(), 5)
        story.kill()
    assert not story.broken


def test_another_id_is_a_second_push(story: Story) -> None:
    story.push("p")
    story.get(story.link(), 5)
    story.kill()
    story.get(story.link(), 6)
    assert "as 5 and again as 6" in story.broken[0]


def test_an_id_never_means_something_else(story: Story) -> None:
    story.push("p")
    story.push("q")
    story.get(story.link(), 5)
    story.kill()
    story.get(story.link(), 5, "q")
    assert "id 5 was p and is q now" in story.broken


def test_an_id_of_one_device_is_not_anothers_but_of_a_broadcast_it_is(story: Story) -> None:
    story.push("all", ANN, BOB, broadcast=True)
    story.get(story.link(ANN), 4, "all")
    story.get(story.link(BOB), 4, "all")
    assert not story.broken
    story.push("p", ANN, BOB)
    story.get(story.link(ANN), 5)
    story.get(story.link(BOB), 5)
    assert story.broken


def test_what_is_for_another_or_of_nobody_is_found(story: Story) -> None:
    story.push("p", ANN)
    story.get(story.link(BOB), 5)
    story.get(story.link(BOB), 6, "never sent")
    assert len(story.broken) == 2


def test_an_ack_in_flight_at_a_kill_lets_it_come_again(story: Story) -> None:
    story.push("p")
    link = story.link()
    story.get(link, 5)
    story.ack(link, 5)
    story.kill()
    story.get(story.link(), 5)
    assert not story.broken
    assert story.ledger.counts["repeated, ack in flight at a kill"] == 1


def test_a_processed_ack_holds_as_long_as_the_process(story: Story) -> None:
    story.push("p")
    link = story.link()
    story.get(link, 5)
    story.ack(link, 5)
    story.get(story.link(), 5)
    assert "its ack was processed" in story.broken[0]


def test_a_durable_ack_holds_over_kills(story: Story) -> None:
    story.push("p")
    link = story.link()
    story.get(link, 5)
    story.ack(link, 5, durable=True)
    story.kill()
    story.get(story.link(), 5)
    assert "its ack was durable" in story.broken[0]


def test_a_proof_by_another_process_proves_nothing(story: Story) -> None:
    story.push("p")
    link = story.link()
    story.get(link, 5)
    story.ack(link, 5)
    story.kill()
    story.ledger.durable(story.ledger.unproved(story.generation))
    story.get(story.link(), 5)
    assert not story.broken


def test_a_receipt_proves_an_ack(story: Story) -> None:
    story.push("p")
    story.get(story.link(), 5)
    story.ledger.receipt(1, "id of p", 5, "acked", "token 0")
    story.kill()
    story.get(story.link(), 5)
    assert "its ack was durable" in story.broken[0]


def test_a_key_makes_one_push(story: Story) -> None:
    push = story.push("p", key="k")
    story.ledger.accepted(push, "id of p", replay=True, targeted=None)
    assert not story.broken
    story.ledger.accepted(push, "id of p", replay=False, targeted=1)
    story.ledger.accepted(push, "another", replay=True, targeted=1)
    assert len(story.broken) == 2


def test_an_audience_that_shrank_is_found(story: Story) -> None:
    push = story.push("p", ANN, BOB, answered=False)
    story.ledger.accepted(push, "id", replay=False, targeted=1)
    assert "1 deliveries, expected 2" in story.broken[0]


@pytest.mark.parametrize(("token", "created"), [("another", False), ("token 0", True)])
def test_a_token_is_for_ever(story: Story, token: str, created: bool) -> None:
    story.ledger.token(ANN, token, created=created)
    assert story.broken


def test_the_feed_rises_and_tells_of_a_delivery_once(story: Story) -> None:
    story.push("p", ANN, BOB)
    story.get(story.link(ANN), 5)
    story.get(story.link(BOB), 6)
    story.ledger.receipt(1, "id of p", 5, "acked", "token 0")
    story.ledger.receipt(2, "id of p", 6, "acked", "token 1")
    assert not story.broken
    story.ledger.receipt(3, "id of p", 6, "acked", "token 1")
    story.ledger.receipt(3, "id of p", 7, "acked", "token 1")
    story.ledger.receipt(4, "id of p", 5, "expired", "token 0")
    assert len(story.broken) >= 4


def test_a_receipt_of_an_ack_that_nobody_sent_is_found(story: Story) -> None:
    story.push("p", ANN, BOB)
    story.get(story.link(ANN), 5)
    story.ledger.receipt(1, "id of p", 1, "acked", "token 0")
    assert not story.broken
    story.ledger.receipt(2, "id of p", 2, "acked", "token 1")
    assert "no device got it" in story.broken[0]


def test_a_receipt_of_a_recall_nobody_asked_for_is_found(story: Story) -> None:
    story.push("p")
    story.ledger.receipt(1, "id of p", 5, "recalled", "token 0")
    assert story.broken


def test_a_feed_with_a_gap_or_a_loss_is_found(story: Story) -> None:
    story.push("p")
    story.get(story.link(), 5)
    story.ledger.receipt(2, "id of p", 5, "acked", "token 0")
    story.ledger.compare_feed([(2, "id of p", 5)])
    assert not story.broken
    story.ledger.compare_feed([(1, "id of q", 4), (2, "id of p", 5)])
    story.ledger.compare_feed([])
    assert len(story.broken) == 2


def test_only_an_ack_before_the_commit_explains_a_push_without_a_receipt(story: Story) -> None:
    story.push("p")
    link = story.link()
    story.get(link, 5)
    story.ack(link, 5, processed=False)
    assert [push.mark for push in story.ledger.unfed()] == ["p"]
    assert not story.broken
    story.push("keyed", key="k")
    story.get(link, 6, "keyed")
    story.ack(link, 6, processed=False)
    story.push("unacked")
    story.get(link, 7, "unacked")
    story.push("two", ANN, BOB)
    story.ledger.unfed()
    assert len(story.broken) == 3
