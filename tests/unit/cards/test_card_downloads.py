"""Downloads end to end: real UDP, real packets, simulated cards (E6, E7)."""

from __future__ import annotations

from card_fleet import Fleet, commands

from gateway.model.cards import DownloadState


async def test_a_capable_card_gets_all_of_it_over_its_link() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        what = commands(40)
        download = await fleet.run(phone, what)
        print([(s.what, s.detail) for s in download.steps], fleet.metrics.counters)
        assert (download.state, download.way, download.calls) == (DownloadState.DONE, "link", 1)
        assert phone.card.executed == list(what)
