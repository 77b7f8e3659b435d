"""Every error the gateway can tell a peer, in one table; `docs/errors.md` is generated from it.

An error knows its number on the device wire, its HTTP status, its metric label, whether to retry and after how long.
Numbers are stable for ever: never reuse one.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Base of all errors that reach a peer.

    `message` says what is wrong and what to do; it must never hold a secret or a subscriber identity.
    `field` names the offending input field, dotted (`target.tag`), or is empty.
    """

    code: ClassVar[int] = 1
    name: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = True
    after_ms: ClassVar[int] = 1_000
    #: on a device link: does the gateway close the link after sending it?
    fatal: ClassVar[bool] = False
    summary: ClassVar[str] = "The gateway failed; the fault is ours and is in its log."

    def __init__(self, message: str = "", *, field: str = "", after_ms: int | None = None) -> None:
        super().__init__(message or self.summary)
        self.message = message or self.summary
        self.field = field
        if after_ms is not None:
            self.after_ms = after_ms  # type: ignore[misc]


# --- frames: the peer broke the protocol --------------------------------------------------------------------------


class MalformedFrame(GatewayError):
    code, name, status, retryable, after_ms, fatal = 10, "malformed_frame", 400, False, 0, True
    summary = "A frame's length or body could not be parsed."


class FrameTooLarge(GatewayError):
    code, name, status, retryable, after_ms, fatal = 11, "frame_too_large", 413, False, 0, True
    summary = "A frame is larger than allowed in this phase (before login the limit is lower)."


class UnknownFrame(GatewayError):
    code, name, status, retryable, after_ms, fatal = 12, "unknown_frame", 400, False, 0, False
    summary = "This frame type is not known to this version of the protocol; the frame was ignored."


class OutOfOrder(GatewayError):
    code, name, status, retryable, after_ms, fatal = 13, "out_of_order", 400, False, 0, True
    summary = "This frame is not allowed in this phase: HELLO comes first, and once."


class UnsupportedVersion(GatewayError):
    code, name, status, retryable, after_ms, fatal = 14, "unsupported_version", 400, False, 0, True
    summary = "The protocol version asked for is not spoken here; WELCOME and this error name those that are."


class InvalidField(GatewayError):
    code, name, status, retryable, after_ms, fatal = 15, "invalid_field", 400, False, 0, False
    summary = "A field is missing, unknown, of the wrong type or out of range; the message says which and why."


# --- login ---------------------------------------------------------------------------------------------------------


class LoginTimeout(GatewayError):
    code, name, status, retryable, after_ms, fatal = 20, "login_timeout", 408, True, 5_000, True
    summary = "No HELLO came inside the login deadline."


class Unauthorized(GatewayError):
    code, name, status, retryable, after_ms, fatal = 21, "unauthorized", 401, False, 0, True
    summary = "The device secret, token or API key is wrong, missing or no longer valid."


class Overloaded(GatewayError):
    code, name, status, retryable, after_ms, fatal = 22, "overloaded", 503, True, 5_000, True
    summary = "Too many logins at once, or memory is short; come back after the given time."


class Takeover(GatewayError):
    code, name, status, retryable, after_ms, fatal = 23, "takeover", 409, False, 0, True
    summary = "A newer link of the same device took over."


class HeartbeatTimeout(GatewayError):
    code, name, status, retryable, after_ms, fatal = 24, "heartbeat_timeout", 408, True, 0, True
    summary = "Nothing was heard inside 1.5 heartbeat intervals."


class SlowConsumer(GatewayError):
    code, name, status, retryable, after_ms, fatal = 25, "slow_consumer", 503, True, 5_000, True
    summary = "The device did not read for too long; what was not sent is kept in the journal."


class Draining(GatewayError):
    code, name, status, retryable, after_ms, fatal = 26, "draining", 503, True, 1_000, True
    summary = "The gateway is shutting down or being restarted; reconnect after the given time."


class Flapping(GatewayError):
    code, name, status, retryable, after_ms, fatal = 27, "flapping", 429, True, 60_000, True
    summary = "This device logs in too often; come back after the given time."


# --- provider requests -----------------------------------------------------------------------------------------------


class BadRequest(GatewayError):
    code, name, status, retryable, after_ms = 30, "bad_request", 400, False, 0
    summary = "The request body is not what the operation takes; the message says which field and why."


class Forbidden(GatewayError):
    code, name, status, retryable, after_ms = 31, "forbidden", 403, False, 0
    summary = "The key is valid but may not do this."


class UnknownToken(GatewayError):
    """Unknown, revoked and foreign tokens get this same answer, so that none can be told from another."""

    code, name, status, retryable, after_ms = 32, "unknown_token", 404, False, 0
    summary = "No such token for this app."


class UnknownPush(GatewayError):
    code, name, status, retryable, after_ms = 33, "unknown_push", 404, False, 0
    summary = "No such push for this app, or its history is past retention."


class UnknownApp(GatewayError):
    code, name, status, retryable, after_ms = 34, "unknown_app", 404, False, 0
    summary = "No such app."


class NotFound(GatewayError):
    code, name, status, retryable, after_ms = 35, "not_found", 404, False, 0
    summary = "No such resource."


class Conflict(GatewayError):
    code, name, status, retryable, after_ms = 36, "conflict", 409, False, 0
    summary = "The resource exists already, or the idempotency key was used with another body."


class PayloadTooLarge(GatewayError):
    code, name, status, retryable, after_ms = 37, "payload_too_large", 413, False, 0
    summary = "The body is larger than the configured limit."


class UnsupportedMedia(GatewayError):
    code, name, status, retryable, after_ms = 38, "unsupported_media", 415, False, 0
    summary = "The content type is not one the operation takes."


class TooManyRequests(GatewayError):
    code, name, status, retryable, after_ms = 39, "too_many_requests", 429, True, 1_000
    summary = "A rate limit or quota was reached; come back after the given time."


class MethodNotAllowed(GatewayError):
    code, name, status, retryable, after_ms = 40, "method_not_allowed", 405, False, 0
    summary = "This path does not take this method; the Allow header names those it takes."


class RequestTimeout(GatewayError):
    code, name, status, retryable, after_ms = 41, "request_timeout", 408, True, 0
    summary = "The request's headers or body came too slowly."


class HeadersTooLarge(GatewayError):
    code, name, status, retryable, after_ms = 42, "headers_too_large", 431, False, 0
    summary = "The request line and headers are larger than allowed."


class Gone(GatewayError):
    code, name, status, retryable, after_ms = 43, "gone", 410, False, 0
    summary = "It was there and has ended for good."


class UnknownSubscriber(GatewayError):
    """Unknown subscribers and those who opted out get this same answer, so that neither can be told from the other."""

    code, name, status, retryable, after_ms = 44, "unknown_subscriber", 404, False, 0
    summary = "No such subscriber or id, or none that takes part."


class NotConfigured(GatewayError):
    code, name, status, retryable, after_ms = 45, "not_configured", 404, False, 0
    summary = "This gateway is not set up for it; the message names the setting."


class UnknownCard(GatewayError):
    code, name, status, retryable, after_ms = 46, "unknown_card", 404, False, 0
    summary = "No such card."


class UnknownDownload(GatewayError):
    """Unknown ones and those of other apps get this same answer."""

    code, name, status, retryable, after_ms = 47, "unknown_download", 404, False, 0
    summary = "No such download for this app, or its history is past retention."


class UnknownCampaign(GatewayError):
    """Unknown ones and those of other apps get this same answer."""

    code, name, status, retryable, after_ms = 48, "unknown_campaign", 404, False, 0
    summary = "No such campaign for this app, or its history is past retention."


class NotSignedIn(GatewayError):
    code, name, status, retryable, after_ms = 49, "not_signed_in", 401, False, 0
    summary = "This device, or this session key, belongs to no user of IM: register and verify an address first."


# --- store -----------------------------------------------------------------------------------------------------------


class StoreUnavailable(GatewayError):
    code, name, status, retryable, after_ms = 50, "store_unavailable", 503, True, 2_000
    summary = "The store can not be written now (disk full or read-only); nothing was accepted."


class StoreSchemaTooNew(GatewayError):
    code, name, status, retryable, after_ms = 51, "store_schema_too_new", 500, False, 0
    summary = "The store was written by a newer version; start that version, or restore a backup."


class QueueFull(GatewayError):
    code, name, status, retryable, after_ms = 52, "queue_full", 503, True, 1_000
    summary = "A bounded queue is full; nothing was accepted."


class AcceptTimeout(GatewayError):
    code, name, status, retryable, after_ms = 53, "accept_timeout", 503, True, 1_000
    summary = "No commit and no ack in time; it may still be accepted, so repeat it with the same idempotency key."


class MappingUnavailable(GatewayError):
    code, name, status, retryable, after_ms = 54, "mapping_unavailable", 503, True, 2_000
    summary = "Whom the id stands for is kept by the HSS, which can not be asked now."


class CodeNotSent(GatewayError):
    code, name, status, retryable, after_ms = 55, "code_not_sent", 503, True, 10_000
    summary = "The one-time code could not be sent; nothing else is wrong with the address."


class MailUnavailable(GatewayError):
    code, name, status, retryable, after_ms = 56, "mail_unavailable", 503, True, 5_000
    summary = "The mail server that this gateway sends by (im.smtp_host) takes nothing now."


class NodeUnreachable(GatewayError):
    #: True: for certain. Else it may be carried out, or was
    nothing_done: bool = False
    code, name, status, retryable, after_ms = 57, "node_unreachable", 503, True, 2_000
    summary = "The node of the fleet that has to answer this can not be reached now, or is being replaced."


class LogUnavailable(StoreUnavailable):
    code, name, status, retryable, after_ms = 58, "log_unavailable", 503, True, 2_000
    summary = "The fleet's journal can not be written now (NATS unreachable or full); nothing was accepted."


class LogFenced(GatewayError):
    #: of who has taken it over, where that is known
    epoch: int = 0
    code, name, status, retryable, after_ms = 59, "log_fenced", 503, True, 1_000
    summary = "Another node has taken over this part of the fleet; ask again."


class ConfigError(GatewayError):
    #: True: what it names may be right, and whom it names was silent; to be tried again
    may_pass: bool = False
    code, name, status, retryable, after_ms = 60, "config", 500, False, 0
    summary = "The configuration is not valid; the message names the field and the fix."


# --- uploads ---------------------------------------------------------------------------------------------------------


class ChecksumMismatch(GatewayError):
    code, name, status, retryable, after_ms = 71, "checksum_mismatch", 460, False, 0
    summary = "The bytes do not have the checksum that came with them; none of them were taken."


class PreconditionFailed(GatewayError):
    code, name, status, retryable, after_ms = 72, "precondition_failed", 412, False, 0
    summary = "The version of the upload protocol asked for is not spoken here; Tus-Version names the one that is."


def _leaves(cls: type[GatewayError]) -> list[type[GatewayError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _leaves(sub))]


#: every error class by its number; unique by construction (checked in tests)
ERRORS: dict[int, type[GatewayError]] = {cls.code: cls for cls in _leaves(GatewayError)}
