"""The Python face of snapshots between members; what they do is native/tests/test_install.c's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bedplate._native import lib
from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.errors import Code
from bedplate.native.errors import StoreError
from bedplate.native.options import Options
from bedplate.native.snapshot import NativeInstall, NativeManifest, damaged, fetch, repair
from bedplate.native.store import Keyspace, Method, NativeStore

TERM = 1000


def opened(directory: Path) -> NativeStore:
    return NativeStore.open(Options(dir=str(directory), segment_size=8 << 20, manual=1))


def put(store: NativeStore, key: bytes, value: bytes) -> None:
    request = pb.PutRequest(key=key, value=value).SerializeToString()
    queue = store.queue()
    failures: list[StoreError | None] = []
    store.submit_wire(queue, Method.PUT, Keyspace.USER, request, 1)
    lib.bp_step_drive(store.pointer)
    queue.take(lambda _cookie, _reply, _aux, error: failures.append(error))
    queue.close()
    assert failures == [None]


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[NativeStore]:
    store = opened(tmp_path / "sender")
    for i in range(20):
        put(store, b"key/%d" % i, b"value %d" % i)
    yield store
    store.close()


def take_manifest(install: NativeInstall, store: NativeStore) -> NativeManifest:
    manifest = NativeManifest(store)
    while piece := manifest.read(500):
        install.manifest(piece)
    return manifest


def test_a_store_takes_over_another_one(sender: NativeStore, tmp_path: Path) -> None:
    receiver = opened(tmp_path / "receiver")
    put(receiver, b"of its own", b"and soon gone")
    install = NativeInstall(receiver)
    manifest = take_manifest(install, sender)
    while (wanted := install.wanted()) is not None:
        assert install.values(fetch(sender, wanted)) > 0
    manifest.close()
    state = install.state()
    assert (state.complete, state.ready, state.done) == (True, True, False)
    assert (state.index, state.term) == (manifest.index, manifest.term)
    assert state.fetched == 20
    install.finish(TERM, 7)
    install.close()
    receiver.close()
    receiver = opened(tmp_path / "receiver")
    expected, found = sender.status(), receiver.status()
    assert found.state_hash == expected.state_hash == state.state_hash
    assert found.revision == expected.revision == state.revision
    assert found.cluster_id == state.cluster_id
    receiver.close()


def test_damage_is_an_error_and_a_new_manifest_may_follow(
    sender: NativeStore, tmp_path: Path
) -> None:
    receiver = opened(tmp_path / "receiver")
    install = NativeInstall(receiver)
    with pytest.raises(StoreError) as refused:
        install.manifest(bytes(100))
    assert refused.value.code is Code.DATA_LOSS
    take_manifest(install, sender).close()
    wanted = install.wanted()
    assert wanted is not None
    with pytest.raises(StoreError) as refused:
        install.values(wanted)
    assert refused.value.code is Code.DATA_LOSS
    with pytest.raises(StoreError) as refused:
        install.finish(TERM, 0)
    assert refused.value.code is Code.FAILED_PRECONDITION
    install.restart()
    assert not install.state().complete
    install.close()
    receiver.close()


def test_nothing_is_damaged_in_a_sound_store(sender: NativeStore) -> None:
    assert damaged(sender) is None
    with pytest.raises(StoreError) as refused:
        repair(sender, b"no values")
    assert refused.value.code is Code.INVALID_ARGUMENT
