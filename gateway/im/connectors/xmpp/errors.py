"""What an XMPP server's errors mean for a session; must never take over a text of theirs."""

from __future__ import annotations

from gateway.im.connectors.xmpp.words import CLIENT, STANZAS, STREAMS, Element
from gateway.model.im import AuthFailed, Rejected, Transient

#: RFC 6120 §8.3.3: may pass, whatever the type of the error says
_PASSING = {
    "internal-server-error",
    "recipient-unavailable",
    "remote-server-timeout",
    "resource-constraint",
    "undefined-condition",
}
#: RFC 6120 §4.9.3 and §8.3.3
_KNOWN = _PASSING | {
    "bad-request",
    "conflict",
    "feature-not-implemented",
    "forbidden",
    "gone",
    "item-not-found",
    "jid-malformed",
    "not-acceptable",
    "not-allowed",
    "not-authorized",
    "policy-violation",
    "redirect",
    "registration-required",
    "remote-server-not-found",
    "service-unavailable",
    "subscription-required",
    "unexpected-request",
    "bad-format",
    "bad-namespace-prefix",
    "connection-timeout",
    "host-gone",
    "host-unknown",
    "improper-addressing",
    "invalid-from",
    "invalid-namespace",
    "invalid-xml",
    "not-well-formed",
    "remote-connection-failed",
    "reset",
    "restricted-xml",
    "see-other-host",
    "system-shutdown",
    "unsupported-encoding",
    "unsupported-feature",
    "unsupported-stanza-type",
    "unsupported-version",
}


class StanzaError(Exception):
    """An answer that is an error; whoever asked knows what it means."""

    def __init__(self, condition: str, is_passing: bool) -> None:
        super().__init__(condition)
        self.condition = condition
        self.is_passing = is_passing

    def as_failure(self) -> Transient | Rejected:
        if self.is_passing:
            return Transient(f"the server can not do this now ({self.condition})")
        return Rejected(f"the server does not take this ({self.condition})")


def _condition(error: Element | None, namespace: str) -> str:
    """One of the defined words: what a server made up goes into no message."""
    for child in () if error is None else error:
        name = child.tag.removeprefix(namespace)
        if name != child.tag and name in _KNOWN:
            return name
    return "undefined-condition"


def parse_stanza_error(stanza: Element) -> StanzaError:
    error = stanza.find(f"{CLIENT}error")
    condition = _condition(error, STANZAS)
    kind = "" if error is None else error.get("type", "")
    return StanzaError(condition, kind == "wait" or (kind != "auth" and condition in _PASSING))


def stream_failure(error: Element) -> Exception:
    """RFC 6120 §4.9.3."""
    condition = _condition(error, STREAMS)
    if condition == "host-unknown":
        return Rejected("jid: this server does not serve the address")
    if condition == "not-authorized":
        return AuthFailed("the server has ended the account's sessions")
    return Transient(f"the server ended the stream ({condition})")
