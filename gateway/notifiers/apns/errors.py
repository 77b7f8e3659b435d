"""APNs' answers and what each means for the delivery; must never carry a device token.

Source: Apple, "Handling notification responses from APNs", table of error strings. Reasons of the broadcast and channel
APIs are left out: this notifier speaks to devices only.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.notifiers.upstream import GARBAGE, Answer, Fault, Row, Verdict, agrees, parse_retry_after

_DEAD, _GONE, _RETRY = Verdict.DEAD, Verdict.GONE, Verdict.RETRY
_ADDRESS, _MESSAGE, _CREDENTIAL = Fault.ADDRESS, Fault.MESSAGE, Fault.CREDENTIAL

OK = Row(200, "ok", Verdict.OK, Fault.NONE, "Apple took it; no proof that the phone shows it")
EXPIRED_PROVIDER_TOKEN = Row(
    403, "ExpiredProviderToken", _RETRY, _CREDENTIAL, "the provider token is older than an hour: renewed once, repeated"
)
TOO_LARGE = Row(413, "PayloadTooLarge", _DEAD, _MESSAGE, "more than 4096 bytes; the notifier cuts texts, so rare")
#: a reason that is none of these, by its status
UNKNOWN_REFUSAL = Row(400, "other_4xx", _DEAD, _MESSAGE, "a reason that is not in Apple's table, with a 4xx status")
UNKNOWN_FAILURE = Row(
    500, "other_5xx", _RETRY, Fault.UPSTREAM, "a reason that is not in Apple's table, with a 5xx status"
)
#: 429 that names no reason of the table
UNKNOWN_THROTTLE = Row(429, "other_429", _RETRY, Fault.EITHER, "429 without a reason of the table", 60)

ROWS = (
    OK,
    Row(400, "BadCollapseId", _DEAD, _MESSAGE, "the collapse identifier is more than 64 bytes"),
    Row(
        400,
        "BadDeviceToken",
        _DEAD,
        _ADDRESS,
        "no device token, or one of the other environment (sandbox or production): check `url`",
    ),
    Row(400, "BadExpirationDate", _DEAD, _MESSAGE, "apns-expiration is not valid"),
    Row(400, "BadMessageId", _DEAD, _MESSAGE, "apns-id is not valid"),
    Row(400, "BadPriority", _DEAD, _MESSAGE, "apns-priority is not valid"),
    Row(400, "BadTopic", _RETRY, _CREDENTIAL, "the topic is not valid: check `topic`"),
    Row(400, "DeviceTokenNotForTopic", _DEAD, _ADDRESS, "the device token belongs to another app than `topic`"),
    Row(400, "DuplicateHeaders", _DEAD, _MESSAGE, "a header came twice"),
    Row(400, "IdleTimeout", _RETRY, Fault.UPSTREAM, "the connection was idle too long"),
    Row(400, "InvalidPushType", _DEAD, _MESSAGE, "apns-push-type is not valid"),
    Row(400, "MissingDeviceToken", _DEAD, _ADDRESS, "no device token in the path"),
    Row(400, "MissingTopic", _RETRY, _CREDENTIAL, "a topic is needed: set `topic`"),
    Row(400, "PayloadEmpty", _DEAD, _MESSAGE, "no payload"),
    Row(400, "TopicDisallowed", _RETRY, _CREDENTIAL, "pushing to this topic is not allowed: check key and `topic`"),
    Row(403, "BadCertificate", _RETRY, _CREDENTIAL, "the client certificate is not valid"),
    Row(403, "BadCertificateEnvironment", _RETRY, _CREDENTIAL, "the certificate is for the other environment"),
    EXPIRED_PROVIDER_TOKEN,
    Row(403, "Forbidden", _RETRY, _CREDENTIAL, "the action is not allowed, as with a key of another team"),
    Row(403, "InvalidProviderToken", _RETRY, _CREDENTIAL, "check `key`, `key_id` and `team_id`"),
    Row(403, "MissingProviderToken", _RETRY, _CREDENTIAL, "neither certificate nor provider token"),
    Row(403, "UnrelatedKeyIdInToken", _RETRY, _CREDENTIAL, "another key than the connection began with"),
    Row(403, "BadEnvironmentKeyIdInToken", _RETRY, _CREDENTIAL, "the key is for the other environment: check `url`"),
    Row(403, "BadEnvironmentKeyInToken", _RETRY, _CREDENTIAL, "the same, as APNs spells it at times"),
    Row(404, "BadPath", _DEAD, _ADDRESS, "the path is not valid"),
    Row(405, "MethodNotAllowed", _RETRY, _CREDENTIAL, "not POST: check that `url` leads to APNs"),
    Row(410, "ExpiredToken", _GONE, _ADDRESS, "the device token has expired"),
    Row(410, "Unregistered", _GONE, _ADDRESS, "the device token is inactive for the topic, since the timestamp"),
    TOO_LARGE,
    Row(
        429,
        "TooManyProviderTokenUpdates",
        _RETRY,
        Fault.THROTTLE,
        "the provider token changed more than once in 20 minutes: it is kept, and the lane rests",
        60,
    ),
    Row(429, "TooManyRequests", _RETRY, _ADDRESS, "too many in a row to this device token; the others go on"),
    Row(500, "InternalServerError", _RETRY, Fault.UPSTREAM, "Apple's fault"),
    Row(503, "ServiceUnavailable", _RETRY, Fault.UPSTREAM, "Apple's fault"),
    Row(503, "Shutdown", _RETRY, Fault.UPSTREAM, "the server is shutting down"),
    UNKNOWN_REFUSAL,
    UNKNOWN_THROTTLE,
    UNKNOWN_FAILURE,
)
BY_REASON = {row.reason: row for row in ROWS if row.reason[0].isupper()}


class _Body(msgspec.Struct):
    reason: str = ""
    #: Unix ms (Apple, "Understand error codes": milliseconds since Epoch), with 410 only
    timestamp: int = 0


def parse_answer(status: int, headers: Mapping[str, str], body: bytes, now_ms: int) -> Answer:
    """Never raises, whatever comes. A 4xx or 5xx whose body can not be read is GARBAGE: it was not APNs."""
    if status == 200:
        return Answer(OK)
    if status < 400:
        return Answer(GARBAGE, detail=f"HTTP {status}")
    retry_after_ms = parse_retry_after(headers.get("retry-after", ""), now_ms)
    try:
        said = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Answer(GARBAGE, retry_after_ms, detail=f"HTTP {status}, no reason")
    row = BY_REASON.get(said.reason)
    if row is None or not agrees(row, status):
        other = UNKNOWN_FAILURE if status >= 500 else UNKNOWN_THROTTLE if status == 429 else UNKNOWN_REFUSAL
        return Answer(other, retry_after_ms, detail=f"{status}, a reason unknown here")
    gone_at_ms = said.timestamp if row.verdict is Verdict.GONE and 0 < said.timestamp < 1 << 53 else 0
    return Answer(row, retry_after_ms, gone_at_ms)
