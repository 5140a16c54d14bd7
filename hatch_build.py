"""Build hook: keeps the protobuf descriptors of Envoy's API inside the wheel.

`xds-protos` holds all of them but overwrites files of other packages, so that it must never be a runtime dependency
(facts: Protobufs). While a wheel or an editable install is built, in pip's isolated environment, this hook reads the
files that `gapless.gateway.envoy` builds messages from, and everything they import, and writes one gzipped
FileDescriptorSet. The file is made, not kept: git ignores it, and a source distribution carries this hook instead.
"""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = "src/gapless/gateway/envoy/descriptors.bin.gz"

ROOTS = (
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/access_loggers/open_telemetry/v3/logs_service.proto",
    "envoy/extensions/common/matching/v3/extension_matcher.proto",
    "envoy/extensions/filters/common/matcher/action/v3/skip_action.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/service/runtime/v3/rtds.proto",
    "envoy/type/matcher/v3/http_inputs.proto",
)
"""The files whose messages `gapless.gateway.envoy` names; the rest follows from their imports."""


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,unused-ignore]
    """Named by hatchling: the class that `[tool.hatch.build.hooks.custom]` looks for."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":  # an editable install is a wheel too; a source distribution is not
            return
        write(Path(self.root) / TARGET)


def write(path: Path) -> None:
    """Write the set, unless it is there already: a rebuild must not touch what a running process reads."""
    data = gzip.compress(descriptors(ROOTS), 9, mtime=0)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


def descriptors(roots: tuple[str, ...]) -> bytes:
    """A serialized FileDescriptorSet of the files and all that they import, each after its imports."""
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()
    for root in roots:
        _add(_file(root), files, seen)
    return bytes(files.SerializeToString(deterministic=True))


def _file(proto: str) -> Any:
    module = proto.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"
    try:
        return importlib.import_module(module).DESCRIPTOR
    except ImportError as error:
        raise RuntimeError(
            f"{proto} is not in this build environment ({error}): build with isolation (the default of pip, uv and "
            "`python -m build`), which installs xds-protos by itself and only there"
        ) from error


def _add(file: Any, files: Any, seen: set[str]) -> None:
    if file.name in seen:
        return
    seen.add(file.name)
    for needed in file.dependencies:
        _add(needed, files, seen)
    file.CopyToProto(files.file.add())
