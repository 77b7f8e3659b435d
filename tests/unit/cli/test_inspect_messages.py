"""`heliograph inspect push` of what the Web Push door answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_api import Api

from gateway.api.webpush.resources import NAME_CHARS, Message, Names, Subscription
from gateway.cli import inspection, run
from gateway.config.sections import Store as StoreConfig
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metrics
from gateway.model.registration import App
from gateway.store import Store


async def write_store(folder: Path) -> tuple[PushIds, int]:
    """Its key of push ids, and the number of its app "shop"."""
    store = await Store.open(StoreConfig(path=str(folder), max_bytes=1 << 26), Metrics(process=False))
    for name in ("other", "shop"):
        await store.directory.put_app(App(name=name))
    app = store.directory.app("shop")
    assert app is not None
    await store.close()
    return PushIds(store.keys.push_id_key), app.number


@pytest.mark.parametrize("begins", ["", "https://push.example.com/push/message/", "/push/message/"])
async def test_a_message_is_followed_by_its_location(
    api: Api, tmp_path: Path, begins: str, capsys: pytest.CaptureFixture[str]
) -> None:
    push_ids, number = await write_store(tmp_path / "store")
    push_id = push_ids.build("shop", 4711)
    api.on(f"GET /v1/push/{push_id}", {"id": push_id})
    name = Names(push_ids.derive(b"webpush")).message(Message(number, 4711))
    # behind --, for one of 64 names begins with a dash
    assert run(["inspect", "push", "--store", str(tmp_path / "store"), "--json", "--", begins + name]) == 0
    assert f"push {push_id} of app shop" in capsys.readouterr().err
    assert api.asked[0][0] == f"GET /v1/push/{push_id}"


async def test_what_is_no_message_here_is_said_so(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push_ids, number = await write_store(tmp_path / "store")
    names = Names(push_ids.derive(b"webpush"))
    texts = ["A" * NAME_CHARS, names.message(Message(number + 9, 1)), names.subscription(Subscription(number, 1, 1))]
    for text in texts:
        assert run(["inspect", "push", "--store", str(tmp_path / "store"), "--", text]) == 1
        assert "no message of the Web Push door" in capsys.readouterr().err
    assert api.asked == []


def test_a_push_id_needs_no_store(api: Api) -> None:
    push_id = PushIds(b"k" * 16).build("shop", 1)
    api.on(f"GET /v1/push/{push_id}", {"id": push_id})
    for text in (push_id, f"http://127.0.0.1:7480/v1/push/{push_id}"):
        assert run(["inspect", "push", "--json", "--", text]) == 0
    assert NAME_CHARS == inspection._MESSAGE_CHARS != len(push_id)
