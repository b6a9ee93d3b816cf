"""The public contract in proto/: what it offers, and that all of it is explained.

The comments are the API manual, so an element without one is a defect like any other. `uncommented`
finds them in the source information that protoc keeps, and is itself tried on a small contract.
"""

import keyword
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
ENGINE_REASONS = ROOT / "native" / "src" / "error.h"
DAEMON = ROOT / "daemon" / "bedplate"

# Field numbers of descriptor.proto, of which the paths in SourceCodeInfo are made.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE, FILE_SYNTAX = 4, 5, 6, 12
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE = 2
SERVICE_METHOD = 2

UNARY, CLIENT_STREAM, SERVER_STREAM, BIDI = (
    (False, False),
    (True, False),
    (False, True),
    (True, True),
)

SERVICES = {
    "bedplate.kv.v1.KVService": {
        "Get": UNARY,
        "Put": UNARY,
        "Delete": UNARY,
        "Scan": UNARY,
        "Txn": UNARY,
        "Batch": UNARY,
        "Pipeline": BIDI,
        "Watch": SERVER_STREAM,
        "GrantLease": UNARY,
        "KeepAlive": BIDI,
        "RevokeLease": UNARY,
        "GetLease": UNARY,
    },
    "bedplate.object.v1.ObjectService": {
        "CreateBucket": UNARY,
        "DeleteBucket": UNARY,
        "ListBuckets": UNARY,
        "PutObject": CLIENT_STREAM,
        "GetObject": SERVER_STREAM,
        "HeadObject": UNARY,
        "DeleteObject": UNARY,
        "DeleteObjects": UNARY,
        "CopyObject": UNARY,
        "ListObjects": UNARY,
        "CreateMultipartUpload": UNARY,
        "UploadPart": CLIENT_STREAM,
        "CompleteMultipartUpload": UNARY,
        "AbortMultipartUpload": UNARY,
        "ListParts": UNARY,
        "ListMultipartUploads": UNARY,
    },
    "bedplate.admin.v1.AdminService": {
        "GetStatus": UNARY,
        "Compact": UNARY,
        "Verify": SERVER_STREAM,
        "Backup": SERVER_STREAM,
    },
    "bedplate.cluster.v1.ClusterService": {
        "GetCluster": UNARY,
        "AddMember": UNARY,
        "PromoteMember": UNARY,
        "RemoveMember": UNARY,
        "TransferLeadership": UNARY,
    },
    "bedplate.cluster.v1.PeerService": {
        "Identify": UNARY,
        "Join": UNARY,
        "Control": BIDI,
        "Data": BIDI,
        "Forward": BIDI,
        "Relay": UNARY,
        "Snapshot": BIDI,
        "FetchValues": SERVER_STREAM,
    },
}

Element = tuple[tuple[int, ...], str]


def compile_contract(root: Path, into: Path) -> list[FileDescriptorProto]:
    """Compile every .proto under `root`, comments kept. Raises CalledProcessError on a bad one."""
    sources = sorted(str(path.relative_to(root)) for path in root.rglob("*.proto"))
    output = into / "contract.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "--include_source_info"]
    subprocess.run(
        [*command, f"--proto_path={root}", f"--descriptor_set_out={output}", *sources],
        check=True,
        timeout=60,
    )
    return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def elements(file: FileDescriptorProto) -> Iterator[Element]:
    """Everything that needs a comment, as (path in SourceCodeInfo, full name)."""
    yield (FILE_SYNTAX,), file.name
    for i, message in enumerate(file.message_type):
        yield from message_elements(message, (FILE_MESSAGE, i), file.package)
    for i, enum in enumerate(file.enum_type):
        yield from enum_elements(enum, (FILE_ENUM, i), file.package)
    for i, service in enumerate(file.service):
        yield from service_elements(service, (FILE_SERVICE, i), file.package)


def message_elements(
    message: DescriptorProto, path: tuple[int, ...], scope: str
) -> Iterator[Element]:
    if message.options.map_entry:  # made by protoc for a map field
        return
    name = f"{scope}.{message.name}"
    yield path, name
    for i, field in enumerate(message.field):
        yield (*path, MESSAGE_FIELD, i), f"{name}.{field.name}"
    made_by_protoc = {field.oneof_index for field in message.field if field.proto3_optional}
    for i, oneof in enumerate(message.oneof_decl):
        if i not in made_by_protoc:
            yield (*path, MESSAGE_ONEOF, i), f"{name}.{oneof.name}"
    for i, nested in enumerate(message.nested_type):
        yield from message_elements(nested, (*path, MESSAGE_NESTED, i), name)
    for i, enum in enumerate(message.enum_type):
        yield from enum_elements(enum, (*path, MESSAGE_ENUM, i), name)


def enum_elements(
    enum: EnumDescriptorProto, path: tuple[int, ...], scope: str
) -> Iterator[Element]:
    name = f"{scope}.{enum.name}"
    yield path, name
    for i, value in enumerate(enum.value):
        yield (*path, ENUM_VALUE, i), f"{name}.{value.name}"


def service_elements(
    service: ServiceDescriptorProto, path: tuple[int, ...], scope: str
) -> Iterator[Element]:
    name = f"{scope}.{service.name}"
    yield path, name
    for i, method in enumerate(service.method):
        yield (*path, SERVICE_METHOD, i), f"{name}.{method.name}"


def uncommented(files: Iterable[FileDescriptorProto]) -> list[str]:
    """The full names of all elements whose leading comment is missing or is no sentence."""
    missing = []
    for file in files:
        comments = {
            tuple(location.path): location.leading_comments.strip()
            for location in file.source_code_info.location
        }
        missing += [name for path, name in elements(file) if not is_text(comments.get(path, ""))]
    return missing


def is_text(comment: str) -> bool:
    return " " in comment and comment.endswith(".")


def every_field(messages: Iterable[DescriptorProto]) -> Iterator[FieldDescriptorProto]:
    for message in messages:
        yield from message.field
        yield from every_field(message.nested_type)


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    return compile_contract(PROTO, tmp_path_factory.mktemp("contract"))


def test_every_element_of_the_contract_is_explained(contract: list[FileDescriptorProto]) -> None:
    assert uncommented(contract) == []


def test_an_unexplained_element_is_reported(tmp_path: Path) -> None:
    (tmp_path / "small.proto").write_text(
        """\
// A small contract.
syntax = "proto3";

package small;

message Bare {
  // Explained: it says something.
  string good = 1;

  // Detached: this belongs to nothing.

  string bare = 2;
  string trailing = 3; // Behind it does not count.
  // word
  string terse = 4;
  //
  optional string empty = 5;
  oneof choice {
    // A choice that is explained.
    string chosen = 6;
  }
  // A map is one field.
  map<string, string> map = 7;
  message Inner {}
}

// Kinds of things.
enum Kind {
  // None at all.
  KIND_UNSPECIFIED = 0;
  KIND_BARE = 1;
}

// Serves things.
service Small {
  rpc Call(Bare) returns (Bare);
}
"""
    )
    (tmp_path / "headless.proto").write_text('syntax = "proto3";\n')
    assert sorted(uncommented(compile_contract(tmp_path, tmp_path))) == [
        "headless.proto",
        "small.Bare",
        "small.Bare.Inner",
        "small.Bare.bare",
        "small.Bare.choice",
        "small.Bare.empty",
        "small.Bare.terse",
        "small.Bare.trailing",
        "small.Kind.KIND_BARE",
        "small.Small.Call",
    ]


def test_the_contract_offers_exactly_the_documented_services(
    contract: list[FileDescriptorProto],
) -> None:
    offered = {
        f"{file.package}.{service.name}": {
            method.name: (method.client_streaming, method.server_streaming)
            for method in service.method
        }
        for file in contract
        for service in file.service
    }
    assert offered == SERVICES


def test_each_file_lies_where_its_package_says(contract: list[FileDescriptorProto]) -> None:
    for file in contract:
        directory = file.package.replace(".", "/")
        own = file.package.split(".")[1]
        names = {own, "peer"} if own == "cluster" else {own}
        assert file.name in {f"{directory}/{name}.proto" for name in names}


def test_every_kv_reply_carries_the_revision(contract: list[FileDescriptorProto]) -> None:
    (kv,) = (file for file in contract if file.package == "bedplate.kv.v1")
    messages = {f".{kv.package}.{message.name}": message for message in kv.message_type}
    for method in kv.service[0].method:
        first = messages[method.output_type].field[0]
        shape = (first.name, first.number, first.type)
        assert shape == ("revision", 1, FieldDescriptorProto.TYPE_UINT64), method.name


def test_field_names_can_be_used_as_they_are(contract: list[FileDescriptorProto]) -> None:
    names = {field.name for file in contract for field in every_field(file.message_type)}
    assert len(names) > 100
    assert [name for name in names if keyword.iskeyword(name) or name.startswith("reserved")] == []


def test_the_manual_names_only_reasons_that_exist() -> None:
    known = set(re.findall(r"X\((\w+)\)", ENGINE_REASONS.read_text()))
    for source in DAEMON.rglob("*.py"):
        known |= set(re.findall(r'reason="(\w+)"', source.read_text()))
    manual = (PROTO / "bedplate/kv/v1/kv.proto").read_text()
    comments = " ".join(re.findall(r"// (.*)", manual))
    words = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", comments))
    statuses = set(re.findall(r"BP_([A-Z_]+) = \d", ENGINE_REASONS.read_text()))
    enum_values = set(re.findall(r"^ +([A-Z_]+) = \d+;", manual, re.MULTILINE))
    assert "LEASE_NOT_FOUND" in words
    assert words - known - statuses - enum_values == set()
