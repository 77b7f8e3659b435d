"""Downloads of an app, the newest first, in pages over bounded reads (E6)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from card_rig import download, payload, put_cards
from store_rig import open_store

from gateway.model.cards import DownloadState
from gateway.store import Store, card_downloads


def pages(store: Store, app: str, limit: int, state: DownloadState | None = None) -> list[int]:
    found: list[int] = []
    before = 0
    for _ in range(1_000):
        page, before = store.card_downloads.of_app(app, before, limit, state)
        assert len(page) <= limit
        found += [each.number for each in page]
        if not before:
            return found
    raise AssertionError("it never ends")


@pytest.mark.parametrize("looked", [1, 2, 3, 7, 2_000])
async def test_every_one_comes_once_whatever_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked: int
) -> None:
    monkeypatch.setattr(card_downloads, "_LOOKED", looked)
    store = await open_store(tmp_path)
    (card,) = await put_cards(store, 1)
    digest = store.card_downloads.put_payload(payload())
    made = [
        download(store, card=card, payload=digest, app="even" if n % 2 == 0 else "odd", state=DownloadState.WAITING)
        for n in range(12)
    ]
    await store.card_downloads.add(made[:9])
    failed = msgspec.structs.replace(made[4], state=DownloadState.FAILED)
    store.card_downloads.settle(failed)
    durable = store.card_downloads.add(made[9:])  # on their way to the disk
    for limit in (1, 2, 5, 100):
        assert pages(store, "even", limit) == [each.number for each in made[::-1] if each.app == "even"]
        assert pages(store, "odd", limit) == [each.number for each in made[::-1] if each.app == "odd"]
        assert pages(store, "even", limit, DownloadState.FAILED) == [made[4].number]
        assert pages(store, "nobody", limit) == []
    await durable
    assert pages(store, "even", 3) == [each.number for each in made[::-1] if each.app == "even"]
    await store.close()


async def test_there_is_nothing_in_an_empty_store(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    assert store.card_downloads.of_app("shop", 0, 10) == ([], 0)
    await store.close()
