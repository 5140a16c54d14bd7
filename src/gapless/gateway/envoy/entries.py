"""What Envoy says of each request: one line of text, in OpenTelemetry's log protocol.

Envoy's own access-log stream carries a message of some sixty fields for each request, which costs Envoy more than twice
as much (decision 0045); a line has only what is asked for here. It is read as bytes: a client may send headers that are
no UTF-8, and protobuf would refuse all of a message for one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

LOGS = "opentelemetry.proto.collector.logs.v1.LogsService"
"""The service whose `Export` takes them."""
NOTHING = "-"
"""Envoy's word for what is not there. (So a user of that name is nobody.)"""
LONGEST_PATH = 1_000
ASKED, ANSWERED = "traceparent", "traceresponse"


class Entry(NamedTuple):
    """A request that has ended, in Envoy's words; a field's default is the command that writes it."""

    cluster: str = "%UPSTREAM_CLUSTER%"
    status: str = "%RESPONSE_CODE%"
    flags: str = "%RESPONSE_FLAGS%"
    """Signs with commas between, such as `UC`."""
    place: str = "%UPSTREAM_REMOTE_ADDRESS%"
    """Of the instance."""
    received: str = "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%"
    """All these are microseconds since its first byte: when it had come as a whole,"""
    first: str = "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%"
    """when the first byte of the instance's answer came, and the last one,"""
    last: str = "%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)%"
    sent: str = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
    """when the answer was sent."""
    ms: str = "%DURATION%"
    """When all was over, in milliseconds."""
    user: str = "%REQ(X-USER-ID)%"
    grpc_header: str = "%RESP(GRPC-STATUS)%"
    """The outcome of a gRPC call is in its trailers, or in the headers of an answer that has nothing else."""
    grpc_trailer: str = "%TRAILER(GRPC-STATUS)%"
    answered: str = f"%RESP({ANSWERED})%"
    asked: str = f"%REQ({ASKED})%"
    method: str = "%REQ(:METHOD)%"
    path: str = f"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):{LONGEST_PATH}%"

    @property
    def took_s(self) -> float:
        """To the end of it all; when the answer was not sent as a whole, by milliseconds."""
        return float(self.ms) * 1e-3 if self.sent == NOTHING else float(self.sent) * 1e-6


LINE = "\n".join(Entry())
"""No header can have a line feed (RFC 9110 §5.5), and so no value can be taken for another field."""


def entries(message: Any) -> Iterator[tuple[float, Entry]]:
    """When each request began, in seconds since the epoch, and what Envoy says of it."""
    for resource in message.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                line = record.body.text.decode("utf-8", "replace")
                yield record.time_unix_nano * 1e-9, Entry._make(line.split("\n"))


def message_class() -> Any:
    """ExportLogsServiceRequest, but for what nobody reads here, and with bytes for text (the encoding is the same)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    file = {
        "name": "gapless/entries.proto",
        "package": "gapless",
        "syntax": "proto3",
        "messageType": [
            _message("Request", _field("resource_logs", 1, "Resource", many=True)),
            _message("Resource", _field("scope_logs", 2, "Scope", many=True)),
            _message("Scope", _field("log_records", 2, "Record", many=True)),
            _message("Record", _field("time_unix_nano", 1, "TYPE_FIXED64"), _field("body", 5, "Value")),
            _message("Value", _field("text", 1, "TYPE_BYTES")),
        ],
    }
    pool = descriptor_pool.DescriptorPool()
    pool.Add(json_format.ParseDict(file, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("gapless.Request"))


def _message(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "field": list(fields)}


def _field(name: str, number: int, kind: str, *, many: bool = False) -> dict[str, Any]:
    scalar = kind.startswith("TYPE_")
    typed = {"type": kind} if scalar else {"type": "TYPE_MESSAGE", "typeName": f".gapless.{kind}"}
    return {"name": name, "number": number, "label": "LABEL_REPEATED" if many else "LABEL_OPTIONAL", **typed}
