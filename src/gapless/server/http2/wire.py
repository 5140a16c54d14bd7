"""The HTTP/2 library as we set it up: its states and frames, none of its policies."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import DenialOfServiceError, ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import HPACKError
from hyperframe.frame import GoAwayFrame

STREAM_WINDOW = 131_072
"""What a client may send ahead of the app on one stream: 2.6 MB/s at 50 ms round trip."""
DEFAULT_WINDOW = 65_535
ANY_STREAM = 2**31 - 1


class Wire(H2Connection):
    MAX_CLOSED_STREAMS = 1000
    """How many ended streams are remembered: those for which frames may still be on their way. h2 keeps 65,536, which
    is 10 MB for each proxy that stays."""


def open_wire(max_streams: int, max_fields: int) -> Wire:
    """A server's side whose SETTINGS are ready to be sent. Fields come as bytes and unchecked (`fields` does
    it), and more streams may come than were allowed, so that those are refused and not the connection."""
    wire = Wire(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
    )
    wire.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_fields,
        },
    )
    wire.decoder.max_header_list_size = 2 * max_fields
    wire.initiate_connection()
    wire.local_settings.max_concurrent_streams = ANY_STREAM
    wire.local_settings.acknowledge()
    # No stream that is not read can hold up another one: the connection's window has room for all of them.
    wire.increment_flow_control_window(max_streams * STREAM_WINDOW - DEFAULT_WINDOW)
    return wire


def goaway(last: int, code: ErrorCodes = ErrorCodes.NO_ERROR, why: str = "") -> bytes:
    """The frame. h2's own way to send it also ends the connection's state, and with it the streams that go on."""
    frame = GoAwayFrame(last_stream_id=last, error_code=code, additional_data=why.encode())
    return bytes(frame.serialize())


LAST_GOAWAY = 17
"""Bytes of a GOAWAY without a reason, as h2 makes it."""


def is_goaway(frame: bytes) -> bool:
    return frame[:4] == b"\x00\x00\x08\x07"


def code_of(error: ProtocolError) -> ErrorCodes:
    """RFC 9113 §4.3 wants a code of its own for what HPACK cannot read."""
    if isinstance(error.__cause__, HPACKError) and not isinstance(error, DenialOfServiceError):
        return ErrorCodes.COMPRESSION_ERROR
    return ErrorCodes(error.error_code)
