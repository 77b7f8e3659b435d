"""The h2 codec as this server wants it; must end no connection for what is one request's fault (RFC 9113 §8.1.1).

The codec answers a malformed request with a connection error, and other requests on it, another tenant's behind the
same proxy, would die with it. So it is shown no fields: http2_scope.py checks them, http2_exchange.py the length of the
body. What does not unpack (HPACK) or comes in no order stays an error of the connection.
"""

from __future__ import annotations

from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived, TrailersReceived
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy
from hpack import Decoder, HeaderTuple
from hyperframe.frame import DataFrame, Frame, RstStreamFrame

from gateway.api.http_protocol import Limits

#: streams remembered after their end: frames of the peer that crossed it are told from nonsense
_CLOSED_STREAMS = 1_024


class _BlockDecoder(Decoder):
    """All fields of a block in one that has no name. `fields_of` opens it."""

    def decode(self, data: bytes, raw: bool = False) -> list[Any]:  # noqa: ARG002
        return [HeaderTuple(b"", list(super().decode(data, raw=True)))]


def fields_of(event: RequestReceived | TrailersReceived) -> list[tuple[bytes, bytes]]:
    """As they came, checked by nobody."""
    assert event.headers is not None
    ((_, fields),) = event.headers
    return fields  # type: ignore[return-value]


class Codec(H2Connection):
    """The server's side of one connection."""

    MAX_CLOSED_STREAMS = _CLOSED_STREAMS

    def __init__(self, limits: Limits) -> None:
        config = H2Configuration(
            client_side=False, header_encoding=None, validate_inbound_headers=False, normalize_inbound_headers=False
        )
        super().__init__(config)
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.headers_bytes,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            },
        )
        self.decoder = _BlockDecoder(limits.headers_bytes)

    def _handle_data_on_closed_stream(
        self, events: list[Event], exc: StreamClosedError, frame: DataFrame
    ) -> tuple[list[Frame], list[Event]]:
        """What was on its way when we reset the stream is given back to the connection's window and else ignored (RFC
        9113 §5.1). The codec would reset the stream once more for each frame."""
        frames, events = super()._handle_data_on_closed_stream(events, exc, frame)
        if self._stream_closed_by(frame.stream_id) is StreamClosedBy.SEND_RST_STREAM:
            frames = [each for each in frames if not isinstance(each, RstStreamFrame)]
        return frames, events
