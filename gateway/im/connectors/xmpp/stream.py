"""One XML stream to an XMPP server: slixmpp connects, encrypts and logs in; what comes after the login goes to its
owner as XML. Must never take an unbounded stanza, connect again by itself, or log."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import socket
import ssl
from collections.abc import Callable
from itertools import count
from typing import Any
from xml.etree import ElementTree

from slixmpp import ClientXMPP
from slixmpp.util.sasl import SASLCancelled
from slixmpp.util.sasl import mechanisms as sasl_mechanisms
from slixmpp.xmlstream import tostring

from gateway.im.connectors.xmpp.errors import parse_stanza_error, stream_failure
from gateway.im.connectors.xmpp.form import Login
from gateway.im.connectors.xmpp.words import BIND, CLIENT, OLD_SESSION, STREAM, Element, element, local_name, split_jid
from gateway.model.im import AuthFailed, Rejected, Transient

#: largest stanza, and longest stream header, that is taken from a server
STANZA_BYTES = 1_048_576
HEADER_BYTES = 4_096
#: deepest nesting
DEPTH = 48
#: bytes that a server may leave unread before the connection is given up
UNSENT_BYTES = 1_048_576
#: most rounds of SCRAM: more would hold up everybody else
SCRAM_ROUNDS = 200_000
KEEPALIVE_S = 240.0
_UNUSED = {"feature_bind", "feature_session", "feature_rosterver", "feature_preapproval", "feature_limits"}
#: of the stream, after the login
_KEPT = {
    *("_loop", "parser", "transport", "xml_depth", "xml_root", "default_domain", "requested_jid", "stream_footer"),
    *("_run_out_filters", "_request_s", "_on_stanza", "_pending", "_numbers", "_unread_bytes", "_header", "_features"),
    *("_negotiated", "_keepalive", "_is_bound", "failure", "_over", "on_failure", "_opening"),
    "_is_parser_worn",
}
#: an end tag, which can not be part of anything else: no attribute has a "<" in it (XML 1.0 §3.1)
_ENDED = re.compile(rb"</[^<>]*>\s*\Z")
#: bytes that are looked at for it
LONGEST_TAG = 256
#: SASL failures (RFC 6120 §6.5) that are about who logs in
_WRONG = {"not-authorized", "account-disabled", "credentials-expired", "invalid-authzid", "malformed-request", ""}

# it would log stanzas, with texts and addresses in them
logging.getLogger("slixmpp").setLevel(logging.CRITICAL + 1)


def _derive(self: Any, text: bytes, salt: bytes, iterations: int) -> bytes:
    """SCRAM's Hi in C; the server says how many rounds."""
    if not 0 < iterations <= SCRAM_ROUNDS:
        raise SASLCancelled("too many rounds")  # type: ignore[no-untyped-call]
    return hashlib.pbkdf2_hmac(self.hash().name, bytes(text), salt, iterations)


sasl_mechanisms.SCRAM.Hi = _derive  # type: ignore[method-assign, assignment]


def _find_opening(header: bytes) -> bytes:
    """The tag that opened the stream, in what came first; empty where it is written in another way than is usual."""
    found = re.search(rb"<stream:stream\s[^<>]*>", header)
    return b"" if found is None else found[0]


class Stream(ClientXMPP):
    """`on_stanza` gets messages, presences and the requests of others, once logged in."""

    def __init__(self, login: Login, context: ssl.SSLContext, request_s: float, on_stanza: Callable[[Element], None]):
        is_plain = login.tls == "never"
        mechanisms = {"unencrypted_scram": is_plain, "unencrypted_plain": is_plain}
        super().__init__(
            login.jid, login.password, ssl_context=context, plugin_config={"feature_mechanisms": mechanisms}
        )
        self.enable_starttls = login.tls == "required"
        self.whitespace_keepalive = False
        self._request_s = request_s
        self._on_stanza = on_stanza
        self._pending: dict[str, tuple[str, asyncio.Future[Element]]] = {}
        self._numbers = count(1)
        self._unread_bytes = 0
        self._header = b""
        #: of the stream, as the server wrote it
        self._opening = b""
        self._is_parser_worn = False
        self._features: Element | None = None
        self._sasl_condition = ""
        self._negotiated: asyncio.Future[None] = self.loop.create_future()
        self._keepalive: asyncio.TimerHandle | None = None
        self._is_bound = False
        #: why it is over; None while it is not
        self.failure: Exception | None = None
        self._over = asyncio.Event()
        self.add_event_handler("failed_auth", self._on_failed_auth)
        self.add_event_handler("failed_all_auth", self._on_failed_all_auth)
        self.add_event_handler("stream_negotiated", self._on_negotiated)
        self.add_event_handler("ssl_invalid_chain", self._on_bad_certificate)

    def register_plugin(self, plugin: str, pconfig: Any = None, module: Any = None) -> None:
        if plugin not in _UNUSED:
            super().register_plugin(plugin, pconfig, module)

    # --- coming and going

    async def log_in(self, address: str, port: int, *, is_direct: bool) -> str:
        """The full address that the server gave us. AuthFailed, Transient, Rejected."""
        self._run_out_filters = asyncio.ensure_future(self.run_filters())
        self.init_plugins()  # type: ignore[no-untyped-call]
        # connection_made of the library takes a connection without an attempt for one that was given up
        self._current_connection_attempt = self.loop.create_future()
        try:
            await self.loop.create_connection(
                lambda: self,
                address,
                port,
                ssl=self.ssl_context if is_direct else None,
                server_hostname=self.default_domain if is_direct else None,
            )
        except ssl.SSLError:
            raise Transient("no TLS with this server: its certificate, or a port that speaks none") from None
        except OSError:
            raise Transient("the server does not take connections") from None
        await self._negotiated
        return await self._bind()

    async def _bind(self) -> str:
        answer = await self.ask(element(f"{BIND}bind"), kind="set")
        jid = answer.findtext(f"{BIND}bind/{BIND}jid") or ""
        if split_jid(jid)[0] != self.requested_jid.bare.lower():
            raise Transient("the server gave another address than the account's")
        if self._features is not None:
            session = self._features.find(f"{OLD_SESSION}session")
            if session is not None and session.find(f"{OLD_SESSION}optional") is None:
                await self.ask(element(f"{OLD_SESSION}session"), kind="set")
        self._is_bound = True
        await self._shed()
        self._keep_alive()
        return jid

    async def _shed(self) -> None:
        """What the library keeps for its login, some 20 KB an account, goes with it."""
        await self._end_queue()
        self.__dict__ = {name: value for name, value in self.__dict__.items() if name in _KEPT}
        self._features = None

    async def _end_queue(self) -> None:
        """The library's task that writes what it sends itself: nothing, after the login."""
        queue, self._run_out_filters = self._run_out_filters, None
        if queue is not None:
            queue.cancel()
            await asyncio.gather(queue, return_exceptions=True)

    def _keep_alive(self) -> None:
        if self.failure is None and self.transport is not None:
            self.transport.write(b" ")
            self._keepalive = self.loop.call_later(KEEPALIVE_S, self._keep_alive)

    async def close(self) -> None:
        """Say goodbye where that is still possible; the library's tasks are over then."""
        if self.transport is not None and self.failure is None:
            self.transport.write(self.stream_footer.encode())
            self.transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._over.wait()
        self.fail(Transient("the session is closed"))
        await self._end_queue()

    def fail(self, failure: Exception) -> None:
        """It is over: the first reason counts."""
        if self.failure is not None:
            return
        self.failure = failure
        if self._keepalive is not None:
            self._keepalive.cancel()
        for _, answer in self._pending.values():
            if not answer.done():
                answer.set_exception(failure)
        if not self._negotiated.done():
            self._negotiated.set_exception(failure)
            self._negotiated.exception()  # it may be that nobody waits yet
        if self.transport is not None:
            self.transport.abort()
        self._over.set()
        self.on_failure()

    def on_failure(self) -> None:
        """Its owner's, to wake its reader."""

    # --- requests

    async def ask(self, *children: Element, kind: str = "get", to: str = "") -> Element:
        """The answer. Transient, Rejected, or StanzaError where the other side says so."""
        iq_id = f"q{next(self._numbers)}-{self.new_id()[:8]}"
        iq = element(f"{CLIENT}iq", "", *children, type=kind, id=iq_id)
        if to:
            iq.set("to", to)
        answer: asyncio.Future[Element] = self.loop.create_future()
        self._pending[iq_id] = (to, answer)
        try:
            self.write(iq)
            async with asyncio.timeout(self._request_s):
                got = await answer
        except TimeoutError:
            raise Transient("the server did not answer in time") from None
        finally:
            del self._pending[iq_id]
        if got.get("type") == "error":
            raise parse_stanza_error(got)
        return got

    def write(self, stanza: Element) -> None:
        """Transient where nothing can be written any more."""
        if self.failure is not None:
            raise self.failure
        if self.transport is None:
            raise Transient("the connection is lost")
        self.transport.write(tostring(stanza, xmlns="jabber:client", top_level=True).encode())
        if self.transport.get_write_buffer_size() > UNSENT_BYTES:
            self.fail(Transient("the server does not read"))

    def pause(self) -> None:
        if self.transport is not None:
            with contextlib.suppress(RuntimeError):
                self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None:
            with contextlib.suppress(RuntimeError):
                self.transport.resume_reading()

    # --- what the library's stream calls

    def connection_made(self, transport: Any, send_event: bool = True) -> None:
        opened = transport.get_extra_info("socket")
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        super().connection_made(transport, send_event)

    def data_received(self, data: bytes | str) -> None:
        if self.parser is None or self.failure is not None:
            return
        try:
            self._read(data.encode() if isinstance(data, str) else data)
        except ElementTree.ParseError:
            self.fail(Transient("the server sent what is no XML"))
        except Exception:  # whatever a hostile server sends ends here
            self.fail(Transient("the server sent what can not be understood"))

    def _read(self, data: bytes) -> None:
        parser: Any = self.parser
        if self.xml_depth == 0:
            self._header += data[: HEADER_BYTES + 1]
            if b"<!" in self._header or len(self._header) > HEADER_BYTES:
                self.fail(Transient("the server sent what no stream begins with"))  # RFC 6120 §11.1
                return
        self._unread_bytes += len(data)
        parser.feed(data)
        for event, xml in parser.read_events():
            if event == "start":
                if self.xml_depth == 0:
                    self.xml_root = xml
                    self._opening, self._header = _find_opening(self._header), b""
                    self.start_stream_handler(xml)  # type: ignore[no-untyped-call]
                self.xml_depth += 1
                if self.xml_depth > DEPTH:
                    self.fail(Transient("the server sent what is nested too deep"))
            else:
                self.xml_depth -= 1
                if self.xml_depth == 0:
                    self.fail(Transient("the server ended the stream"))
                elif self.xml_depth == 1:
                    self._unread_bytes = 0
                    self._take(xml)
                    if parser is self.parser and self.xml_root is not None:
                        self.xml_root.clear()
            if self.failure is not None:
                return
        if self._unread_bytes > STANZA_BYTES:
            self.fail(Transient("the server sent more than a stanza may have"))
        elif self._is_parser_worn and self.xml_depth == 1 and _ENDED.search(data, len(data) - LONGEST_TAG):
            self._renew_parser()

    def shed_parser(self) -> None:
        """A parser keeps each name it ever read, and those of the login do not come again: the next stanza that ends
        is its last."""
        self._is_parser_worn = True

    def _renew_parser(self) -> None:
        """Nothing is half read: what came last ended a stanza."""
        self._is_parser_worn = False
        parser: Any = ElementTree.XMLPullParser(("start", "end"))
        try:
            parser.feed(self._opening)
            opened: list[Any] = list(parser.read_events())
        except ElementTree.ParseError:
            return
        if len(opened) == 1:
            self.parser, self.xml_root = parser, opened[0][1]

    def init_parser(self) -> None:
        super().init_parser()
        self._header, self._unread_bytes = b"", 0

    def _take(self, xml: Element) -> None:
        if xml.tag == f"{STREAM}error":
            self.fail(stream_failure(xml))
        elif xml.tag == f"{CLIENT}iq" and xml.get("type") in ("result", "error"):
            to, answer = self._pending.get(xml.get("id", ""), ("", None))
            if answer is not None and not answer.done() and self._is_from(xml, to):
                answer.set_result(xml)
        elif xml.tag.startswith(CLIENT):
            if self._is_bound:
                self._on_stanza(xml)
        elif not self._is_bound:
            if xml.tag == f"{STREAM}features":
                self._features = xml
            self._spawn_event(xml)

    def _is_from(self, xml: Element, to: str) -> bool:
        sender = xml.get("from", "")
        if to:
            return sender.lower() == to.lower()
        # RFC 6120 §8.1.2.1: our own account or its server answer with or without a name
        bare, _ = split_jid(sender)
        return bare in ("", self.default_domain.lower(), self.requested_jid.bare.lower())

    def eof_received(self) -> None:
        """The transport closes by itself then."""

    def connection_lost(self, exception: BaseException | None) -> None:
        if not self._is_bound:
            was_starting_tls = self._current_connection_attempt is not None
            super().connection_lost(exception)
            if was_starting_tls:
                self._on_bad_certificate(exception)
        self.parser = self.transport = None
        self.fail(Transient("the connection is lost"))
        self._over.set()

    def exception(self, exception: Exception) -> None:  # noqa: ARG002 - the library's name
        self.fail(Transient("the server sent what can not be understood"))

    # --- the login, as the library tells it

    def _on_failed_auth(self, failure: Any) -> None:
        names = [local_name(child.tag) for child in failure.xml if local_name(child.tag) != "text"]
        self._sasl_condition = names[0] if names else ""

    def _on_failed_all_auth(self, _: Any) -> None:
        tried = self.plugin["feature_mechanisms"].attempted_mechs
        if not tried:
            self.fail(Rejected("tls: the server offers no login that is safe on this connection"))
        elif self._sasl_condition in _WRONG:
            self.fail(AuthFailed("the server does not take this password"))
        else:
            self.fail(Transient("the server could not check the password"))

    def _on_negotiated(self, _: Any) -> None:
        if not self.authenticated:
            self.fail(Transient("the server offers no login"))
        elif not self._negotiated.done():
            self._negotiated.set_result(None)

    def _on_bad_certificate(self, _: Any) -> None:
        self.fail(Transient("the server's certificate is not good for its name"))
