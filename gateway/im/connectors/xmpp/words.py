"""Names of XML that XMPP's pieces share, and what is easily said of an address; must know no connection."""

from __future__ import annotations

from xml.etree import ElementTree

CLIENT = "{jabber:client}"
STREAM = "{http://etherx.jabber.org/streams}"
STANZAS = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
STREAMS = "{urn:ietf:params:xml:ns:xmpp-streams}"
BIND = "{urn:ietf:params:xml:ns:xmpp-bind}"
OLD_SESSION = "{urn:ietf:params:xml:ns:xmpp-session}"
ROSTER = "{jabber:iq:roster}"
PING = "{urn:xmpp:ping}"  # XEP-0199
DISCO_INFO = "{http://jabber.org/protocol/disco#info}"  # XEP-0030
DISCO_ITEMS = "{http://jabber.org/protocol/disco#items}"
FORM = "{jabber:x:data}"  # XEP-0004
PAGE = "{http://jabber.org/protocol/rsm}"  # XEP-0059
MAM = "{urn:xmpp:mam:2}"  # XEP-0313
FORWARD = "{urn:xmpp:forward:0}"  # XEP-0297
CARBONS = "{urn:xmpp:carbons:2}"  # XEP-0280
DELAY = "{urn:xmpp:delay}"  # XEP-0203
STANZA_IDS = "{urn:xmpp:sid:0}"  # XEP-0359
MARKERS = "{urn:xmpp:chat-markers:0}"  # XEP-0333
STATES = "{http://jabber.org/protocol/chatstates}"  # XEP-0085
GEOLOC = "{http://jabber.org/protocol/geoloc}"  # XEP-0080
OOB = "{jabber:x:oob}"  # XEP-0066
UPLOAD = "{urn:xmpp:http:upload:0}"  # XEP-0363
CORRECT = "{urn:xmpp:message-correct:0}"  # XEP-0308
RETRACT = "{urn:xmpp:message-retract:1}"  # XEP-0424
REPLY = "{urn:xmpp:reply:0}"  # XEP-0461
FALLBACK = "{urn:xmpp:fallback:0}"  # XEP-0428
HINTS = "{urn:xmpp:hints}"  # XEP-0334
MUC = "{http://jabber.org/protocol/muc}"  # XEP-0045
MUC_USER = "{http://jabber.org/protocol/muc#user}"
PUBSUB = "{http://jabber.org/protocol/pubsub}"  # XEP-0060
BOOKMARKS = "{urn:xmpp:bookmarks:1}"  # XEP-0402

Element = ElementTree.Element


def element(tag: str, text: str = "", *children: Element, **attributes: str) -> Element:
    """`tag` in its namespace, as above."""
    made = Element(tag, attributes)
    if text:
        made.text = text
    made.extend(children)
    return made


def split_jid(address: str) -> tuple[str, str]:
    """Bare address, in the case in which servers tell them; resource."""
    bare, _, resource = address.partition("/")
    return bare.lower(), resource


def local_name(tag: str) -> str:
    return tag.rpartition("}")[2]
