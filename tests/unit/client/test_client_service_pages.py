"""The terminal's callback table: what starts an app, what does not, and what is kept (C13)."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.events import Binding, Bound, Ended, Online, Paged
from gateway.client.page_store import FilePages, KnownPage
from gateway.client.service_access import AccessFailed, AccessVerifier, request_access
from gateway.client.service_pages import MOST_AT_WORK, WINDOW, Invitation, Outcome, ServicePages
from gateway.model.frames import Welcome
from gateway.model.registration import build_token
from gateway.model.service_access import is_proved
from gateway.model.service_page import ServicePage, build_page, hash_aid, hash_id

KEY, TOKEN = b"k" * 32, b"t" * 16
NOW = 1_800_000_000


class Scene:
    def __init__(self) -> None:
        self.now = float(NOW)
        self.pages = ServicePages(clock=lambda: self.now)
        self.started: list[Invitation] = []
        self.pages.bind(build_token(TOKEN), "shop", KEY, ["https://a.example.com/", "https://b.example.com/"])
        self.pages.on_page("shop", self.started.append, aid="chat")

    def page(self, counter: int = 1, *, ticket: int | None = None, key: bytes = KEY, **changes: object) -> bytes:
        number = counter if ticket is None else ticket
        page = ServicePage(hash_aid("chat", KEY), hash_id(TOKEN), number.to_bytes(16, "big"), NOW + 60, counter)
        return build_page(page._replace(**changes), key)

    def take(self, counter: int = 1, **changes: object) -> Outcome:
        return self.pages.take(self.page(counter, **changes))  # type: ignore[arg-type]


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_callback_of_the_aid_gets_its_server_and_a_request_that_is_proved() -> None:
    scene = Scene()
    assert scene.take(server=1, params=b"table=7") is Outcome.STARTED
    await turn()
    (invitation,) = scene.started
    assert (invitation.server, invitation.params, invitation.aid) == ("https://b.example.com/", b"table=7", "chat")
    assert is_proved(invitation.request, KEY)
    assert "table" not in repr(invitation)


async def test_everything_that_is_wrong_is_told_apart_here_alone() -> None:
    scene = Scene()
    assert scene.pages.take(b"") is Outcome.GARBAGE
    assert scene.take(id=hash_id(b"u" * 16)) is Outcome.UNKNOWN_ID
    assert scene.take(key=b"x" * 32) is Outcome.FORGED
    assert scene.take(expires_s=NOW) is Outcome.EXPIRED
    assert scene.take(aid=hash_aid("other", KEY)) is Outcome.UNKNOWN_AID
    assert scene.take(aid=hash_aid("", KEY)) is Outcome.UNKNOWN_AID
    assert scene.take(server=2) is Outcome.NO_SERVER
    assert scene.started == []
    assert scene.take() is Outcome.STARTED  # nothing of the above has used its counter up
    assert scene.take() is Outcome.REPLAYED
    assert scene.take(2, ticket=1) is Outcome.REPEATED
    assert scene.take(2, ticket=1) is Outcome.REPLAYED
    await turn()
    assert len(scene.started) == 1
    assert scene.pages.counters[Outcome.REPLAYED] == 2


async def test_a_page_that_names_no_aid_is_looked_up_by_the_id() -> None:
    scene = Scene()
    by_id: list[Invitation] = []
    scene.pages.on_page("shop", by_id.append, aid="")
    assert scene.take(aid=hash_aid("", KEY)) is Outcome.STARTED
    await turn()
    assert [invitation.aid for invitation in by_id] == [""]
    assert is_proved(by_id[0].request, KEY)


async def test_an_aid_of_another_app_is_not_started_with_this_key() -> None:
    scene = Scene()
    scene.pages.on_page("bank", scene.started.append, aid="pay")
    assert scene.take(aid=hash_aid("pay", KEY)) is Outcome.UNKNOWN_AID


async def test_short_messages_that_overtake_each_other_are_taken_and_old_ones_are_not() -> None:
    scene = Scene()
    for counter in (30, 10, 20):
        assert scene.take(counter) is Outcome.STARTED
    for counter in range(1_000, 1_000 + WINDOW):
        assert scene.take(counter) is Outcome.STARTED
        await turn()
    assert scene.take(20) is Outcome.REPLAYED  # forgotten, and below all that are known
    assert scene.take(999) is Outcome.REPLAYED
    (known,) = scene.pages._known.values()
    assert len(known.seen) == WINDOW


@given(st.lists(st.integers(0, 200), max_size=150))
def test_no_counter_is_ever_taken_twice(counters: list[int]) -> None:
    async def run() -> None:
        scene = Scene()
        taken = []
        for counter in counters:
            if scene.take(counter) is Outcome.STARTED:
                taken.append(counter)
            await turn()
        assert len(taken) == len(set(taken))

    asyncio.run(run())


@given(st.binary(max_size=140))
def test_no_bytes_raise_or_start_anything(data: bytes) -> None:
    scene = Scene()
    assert scene.pages.take(data) in (Outcome.GARBAGE, Outcome.UNKNOWN_ID, Outcome.FORGED)


async def test_a_callback_that_hangs_or_fails_keeps_no_other_from_starting() -> None:
    scene = Scene()
    entered: list[Invitation] = []

    async def hang(invitation: Invitation) -> None:
        entered.append(invitation)
        await asyncio.Event().wait()

    scene.pages.on_page("shop", hang, aid="chat")
    for counter in range(MOST_AT_WORK):
        assert scene.take(counter + 1) is Outcome.STARTED
    assert scene.take(500) is Outcome.BUSY
    await turn()
    assert len(entered) == MOST_AT_WORK
    await scene.pages.aclose()

    def fail(_invitation: Invitation) -> None:
        raise RuntimeError

    scene.pages.on_page("shop", fail, aid="chat")
    assert scene.take(501) is Outcome.STARTED
    await turn()
    assert scene.pages.counters["callback_errors"] == 1


async def test_after_an_account_was_switched_its_pages_start_nothing() -> None:
    """A5."""
    scene = Scene()
    binding = Binding("shop", "1.0", token=build_token(TOKEN))
    scene.pages.hear(Ended(binding))
    assert scene.take() is Outcome.UNKNOWN_ID
    binding.page_key = KEY
    assert not scene.pages.hear(Bound(binding, changed=False))
    assert scene.pages.hear(Paged(1, scene.page()))
    assert scene.pages.hear(Paged(2, scene.page(2, ticket=1)))  # it was not heard that it was started
    assert not scene.pages.hear(Paged(3, scene.page(key=b"x" * 32)))


async def test_a_terminal_whose_clock_is_ahead_learns_the_gateways_at_login() -> None:
    scene = Scene()
    scene.now = NOW + 3_600
    assert scene.take() is Outcome.EXPIRED
    welcome = Welcome(
        v=1, device="d", heartbeat=1, heartbeat_min=1, heartbeat_max=1, window=1, max_frame=1, now_ms=NOW * 1000
    )
    assert not scene.pages.hear(Online(welcome))
    assert scene.take() is Outcome.STARTED
    scene.now = NOW  # it was put right
    assert scene.take(2) is Outcome.STARTED
    scene.now = NOW + 4_000
    assert scene.take(3) is Outcome.EXPIRED


async def test_a_gateway_that_signs_no_pages_binds_nothing() -> None:
    scene = Scene()
    scene.pages.bind(build_token(b"v" * 16), "shop", b"")
    scene.pages.bind("no token", "shop", KEY)
    assert len(scene.pages._known) == 1


@pytest.mark.parametrize("servers", [["http://a.example.com"], ["https://a"] * 9, ["ftp://a"]])
def test_a_table_takes_no_server_that_is_not_https(servers: list[str]) -> None:
    with pytest.raises(ValueError, match="https"):
        Scene().pages.on_page("shop", lambda _: None, servers=servers)


async def test_the_apps_own_servers_count_before_those_of_the_gateway() -> None:
    scene = Scene()
    scene.pages.on_page("shop", scene.started.append, aid="chat", servers=["https://own.example.com/"])
    assert scene.take() is Outcome.STARTED
    assert scene.take(2, server=1) is Outcome.NO_SERVER
    await turn()
    assert scene.started[0].server == "https://own.example.com/"


async def test_a_server_that_the_gateway_should_not_have_named_is_not_connected_to() -> None:
    scene = Scene()
    scene.pages.bind(build_token(TOKEN), "shop", KEY, ["http://169.254.169.254/"])
    assert scene.take() is Outcome.NO_SERVER


# --- kept


async def test_keys_and_what_was_seen_are_kept_in_a_file_nobody_else_reads(tmp_path: Path) -> None:
    store = FilePages(tmp_path / "pages")
    pages = await ServicePages.open(store, clock=lambda: NOW)
    started: list[Invitation] = []
    pages.bind(build_token(TOKEN), "shop", KEY)
    pages.on_page("shop", started.append, aid="chat")
    scene = Scene()
    assert pages.take(scene.page()) is Outcome.STARTED
    await pages.aclose()
    assert stat.S_IMODE((tmp_path / "pages").stat().st_mode) == 0o600
    again = await ServicePages.open(store, clock=lambda: NOW)
    again.on_page("shop", started.append, aid="chat")
    assert again.take(scene.page()) is Outcome.REPLAYED
    again.unbind(build_token(TOKEN))
    await again.aclose()
    assert await store.load() == []


async def test_a_file_that_is_another_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pages").write_text("mine")
    with pytest.raises(ValueError, match="no page keys"):
        await ServicePages.open(FilePages(tmp_path / "pages"))
    assert (tmp_path / "pages").read_text() == "mine"


class BrokenStore:
    async def load(self) -> Sequence[KnownPage]:
        return []

    async def save(self, known: Sequence[KnownPage]) -> None:
        raise OSError("disk full")


async def test_a_store_that_fails_does_not_keep_the_app_from_starting() -> None:
    pages = ServicePages(BrokenStore(), clock=lambda: NOW)
    started: list[Invitation] = []
    pages.bind(build_token(TOKEN), "shop", KEY)
    pages.on_page("shop", started.append, aid="chat")
    assert pages.take(Scene().page()) is Outcome.STARTED
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(started) == 1
    assert pages.counters["unsaved"] >= 1


# --- the access


async def serve(answer: bytes) -> tuple[asyncio.Server, str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n" + b"x" * 900_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno!",
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_a_gateway_that_answers_nonsense_is_no_yes(answer: bytes) -> None:
    scene = Scene()
    scene.take()
    await turn()
    import msgspec

    server, url = await serve(answer)
    async with server:
        with pytest.raises(AccessFailed) as caught:
            await AccessVerifier(url, "hk_secret", timeout_s=5).verify(msgspec.json.encode(scene.started[0].request))
    assert url not in str(caught.value)
    assert "hk_secret" not in str(caught.value)


async def test_an_invitation_without_a_server_is_connected_by_the_app_itself() -> None:
    scene = Scene()
    scene.pages.bind(build_token(TOKEN), "shop", KEY, [])
    assert scene.take() is Outcome.STARTED
    await turn()
    with pytest.raises(AccessFailed, match="no server"):
        await request_access(scene.started[0])
