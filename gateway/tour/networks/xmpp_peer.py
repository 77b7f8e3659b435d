"""The other person on an XMPP server, with slixmpp and its own plugins: no piece of our connector is in it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import httpx
from slixmpp import ClientXMPP

from gateway.model.im import Conversation, ConversationKind

_GEOLOC = "{http://jabber.org/protocol/geoloc}"
_MARKERS = "{urn:xmpp:chat-markers:0}"
_PLUGINS = ("xep_0030", "xep_0045", "xep_0066", "xep_0085", "xep_0333", "xep_0363", "xep_0308", "xep_0461")
_PATIENCE_S = 20.0


@dataclass(slots=True)
class Heard:
    text: str
    remote_id: str
    #: of a room: the id that the room gave
    room_id: str = ""
    file: bytes = b""
    geo: tuple[float, float] | None = None


class XmppPeer:
    """`friend`: the bare address of our account. `room`: they talk in that one."""

    def __init__(self, address: str, password: str, friend: str, port: int, room: str = "") -> None:
        self.address, self._password, self._friend, self._port, self._room = address, password, friend, port, room
        kind = ConversationKind.ROOM if room else ConversationKind.DM
        self.conversation = Conversation(kind, room or address)
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        self._marks: asyncio.Queue[str] = asyncio.Queue()
        #: states of typing, statuses of presence, requests: as they came
        self.seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._last = ""
        self._client: Any = None

    async def connect(self) -> None:
        client: Any = ClientXMPP(
            self.address,
            self._password,
            plugin_config={"feature_mechanisms": {"unencrypted_scram": True, "unencrypted_plain": True}},
        )
        client.enable_starttls = client.enable_direct_tls = False
        client.enable_plaintext = True
        client.auto_authorize, client.auto_subscribe = None, False
        for plugin in _PLUGINS:
            client.register_plugin(plugin)
        started = asyncio.Event()
        client.add_event_handler("session_start", lambda _: started.set())
        client.add_event_handler("message", self._on_message)
        client.add_event_handler("marker_displayed", lambda message: self._marks.put_nowait(message["displayed"]["id"]))
        for event in ("presence_subscribe", "presence_subscribed", "presence_unsubscribed", "chatstate_composing"):
            client.add_event_handler(event, lambda stanza, name=event: self._note(name, stanza))
        client.add_event_handler("presence_available", lambda stanza: self._note("available", stanza))
        client.add_event_handler("presence_unavailable", lambda stanza: self._note("unavailable", stanza))
        self._client = client
        client.connect("127.0.0.1", self._port)
        async with asyncio.timeout(_PATIENCE_S):
            await started.wait()
        client.send_presence()
        await client.get_roster()
        if self._room:
            await client.plugin["xep_0045"].join_muc_wait(self._room, "peer", maxstanzas=0)

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await client.disconnect(wait=0.5)
            client.abort()
            client.cancel_connection_attempt()
            if client._run_out_filters is not None:
                client._run_out_filters.cancel()
                await asyncio.gather(client._run_out_filters, return_exceptions=True)

    def _note(self, name: str, stanza: Any) -> None:
        self.seen.put_nowait((name, str(stanza["from"].bare)))

    def _on_message(self, message: Any) -> None:
        is_own = message["type"] == "groupchat" and message["mucnick"] == "peer"
        if is_own or message["type"] == "error":
            return
        place = message.xml.find(f"{_GEOLOC}geoloc")
        geo = None
        if place is not None:
            geo = float(place.findtext(f"{_GEOLOC}lat")), float(place.findtext(f"{_GEOLOC}lon"))
        given = message.xml.find("{urn:xmpp:sid:0}stanza-id")
        room_id = "" if given is None else given.get("id", "")
        self._last = room_id if message["type"] == "groupchat" else message["id"]
        self._heard.put_nowait(Heard(message["body"], message["id"], room_id, message["oob"]["url"].encode(), geo))

    async def hear(self) -> Heard:
        async with asyncio.timeout(_PATIENCE_S):
            heard = await self._heard.get()
        if heard.file:
            async with httpx.AsyncClient() as web:
                heard.file = (await web.get(heard.file.decode())).content
        return heard

    def _message(self, text: str) -> Any:
        kind = "groupchat" if self._room else "chat"
        return self._client.make_message(self._room or self._friend, text, mtype=kind)

    async def say(self, text: str) -> None:
        self._message(text).send()

    async def say_file(self, data: bytes, mime: str, name: str) -> None:
        url = await self._client.plugin["xep_0363"].upload_file(
            name, size=len(data), content_type=mime, input_file=io.BytesIO(data)
        )
        message = self._message(url)
        message["oob"]["url"] = url
        message.send()

    async def say_place(self, latitude: float, longitude: float) -> None:
        message = self._message(f"geo:{latitude},{longitude}")
        place = ElementTree.SubElement(message.xml, f"{_GEOLOC}geoloc")
        ElementTree.SubElement(place, f"{_GEOLOC}lat").text = str(latitude)
        ElementTree.SubElement(place, f"{_GEOLOC}lon").text = str(longitude)
        message.send()

    async def say_xml(self, xml: str) -> None:
        """What no library would send."""
        self._client.send_raw(re.sub(r"\s+<", "<", xml))

    async def read_all(self) -> None:
        message = self._client.make_message(self._room or self._friend, mtype="groupchat" if self._room else "chat")
        marked = ElementTree.SubElement(message.xml, f"{_MARKERS}displayed")
        marked.set("id", self._last)
        message.send()

    async def hear_read(self) -> str:
        async with asyncio.timeout(_PATIENCE_S):
            return await self._marks.get()

    async def type(self) -> None:
        message = self._client.make_message(self._friend, mtype="chat")
        message["chat_state"] = "composing"
        message.send()

    async def ask_friend(self) -> None:
        self._client.send_presence(pto=self._friend, ptype="subscribe", pstatus="let me in")

    async def answer_friend(self, *, accept: bool) -> None:
        self._client.send_presence(pto=self._friend, ptype="subscribed" if accept else "unsubscribed")
        if accept:
            self._client.send_presence(pto=self._friend, ptype="subscribe")
