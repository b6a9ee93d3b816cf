"""What tests of a real cluster share: calls that go on as a client's would."""

import time
from typing import Any

import grpc

from bedplate.api.kv.v1 import kv_pb2 as kv
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from bedplate.api.object.v1 import object_pb2
from bedplate.native.store import crc32c
from tests.integration.daemon import eventually
from tests.integration.daemon_cluster import ClusterDaemon, DaemonCluster, bedplate, free_addresses

MIB = 1 << 20


def retried(stub: KVServiceStub, request: kv.PutRequest) -> kv.PutResponse:
    """As a client does: again, while there is no leader."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return stub.Put(request, timeout=10)
        except grpc.RpcError as error:
            call: Any = error  # what grpc raises is both
            if call.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise


def succeeds(*arguments: str) -> bool:
    """A command line that may have to be repeated."""
    return bedplate(*arguments)[0] == 0


def added(
    cluster: DaemonCluster, by: ClusterDaemon, name: str, *settings: str, promoted: bool = True
) -> ClusterDaemon:
    """A new member, started, and a voter unless it shall stay a learner."""
    (address,) = free_addresses(1)
    code, _, complained = bedplate("--server", by.grpc, "cluster", "add", f"{name}={address}")
    assert code == 0, complained
    daemon = cluster.join(cluster.make(name, address, f"cluster.join={by.address}", *settings))
    if promoted:
        eventually(lambda: succeeds("--server", address, "cluster", "promote", name))
    return daemon


def chunk(data: bytes) -> object_pb2.DataChunk:
    return object_pb2.DataChunk(data=data, crc32c=crc32c(data))


def upload(stub: Any, bucket: str, key: str, content: bytes) -> object_pb2.ObjectInfo:
    """Put an object as chunks of a MiB."""
    header = object_pb2.PutObjectHeader(bucket=bucket, key=key, size=len(content))
    parts = (content[at : at + MIB] for at in range(0, len(content), MIB))
    messages = [
        object_pb2.PutObjectRequest(header=header),
        *(object_pb2.PutObjectRequest(chunk=chunk(part)) for part in parts),
    ]
    response: object_pb2.PutObjectResponse = stub.PutObject(iter(messages))
    return response.info


def download(stub: Any, bucket: str, key: str) -> bytes:
    answers = stub.GetObject(object_pb2.GetObjectRequest(bucket=bucket, key=key))
    return b"".join(answer.chunk.data for answer in answers)
