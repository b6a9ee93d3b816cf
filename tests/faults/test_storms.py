"""Storms of overwrites and deletes: the disk a store takes comes back by itself to what it holds.

bound = 2 x live values + history + two checkpoints + the log since the older checkpoint, rounded up
to whole segments
"""

import random
from pathlib import Path

from bedplate.api.kv.v1 import kv_pb2 as pb
from tests.faults.conftest import MakeDaemon
from tests.faults.warm_daemon import WarmDaemon
from tests.integration.daemon import eventually

MIB = 1 << 20
SEGMENT = 8 * MIB
LOG_BYTES = 16 * MIB
SETTINGS = (
    f"log.segment_size={SEGMENT}",
    f"checkpoint.log_bytes={LOG_BYTES}",
    "history.seconds_max=1",
    "clean.disk_reserve=8MiB",
)
KEYS = 8000
VALUE = 4000
BATCH = 100


def taken(store: Path) -> int:
    """Bytes of disk that segments and checkpoints take."""
    paths = [path for path in store.iterdir() if path.suffix in (".log", ".set", ".ckpt")]
    total = 0
    for path in paths:
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # it went while we looked
    return total


def bound(daemon: WarmDaemon) -> float:
    live = daemon.metric("bedplate_live_value_bytes")
    history = daemon.metric("bedplate_history_value_bytes")
    checkpoint = daemon.metric("bedplate_checkpoint_bytes")
    log = 2 * max(
        LOG_BYTES, checkpoint
    )  # one checkpoint's distance may pass before the next begins
    return 2 * live + history + 2 * checkpoint + log + 2 * SEGMENT


def settles(daemon: WarmDaemon) -> None:
    """History ends and the disk is given back, with nobody doing anything."""
    eventually(lambda: daemon.metric("bedplate_history_effects") == 0)
    eventually(lambda: taken(daemon.store) <= bound(daemon))


def overwrite(daemon: WarmDaemon, rng: random.Random, batches: int) -> dict[bytes, bytes]:
    """Random overwrites; the value that each key must have."""
    kv = daemon.kv()
    state: dict[bytes, bytes] = {}
    for number in range(batches):
        chosen = rng.sample(range(KEYS), BATCH)
        written = {b"k%05d" % i: b"%d/%d " % (number, i) + rng.randbytes(VALUE) for i in chosen}
        ops = [pb.BatchOp(put=pb.PutOp(key=key, value=value)) for key, value in written.items()]
        kv.Batch(pb.BatchRequest(ops=ops))
        state |= written
    return state


def check(daemon: WarmDaemon, state: dict[bytes, bytes]) -> None:
    kv, request = daemon.kv(), pb.ScanRequest(prefix=b"k")
    found: dict[bytes, bytes] = {}
    while True:
        page = kv.Scan(request)
        found |= {item.key: item.value for item in page.kvs}
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == state


def test_the_disk_comes_back_after_an_overwrite_storm_and_after_a_delete_storm(
    make: MakeDaemon,
) -> None:
    rng = random.Random(1)
    daemon = make(*SETTINGS)
    daemon.start()
    state = overwrite(daemon, rng, 600)
    written = daemon.metric("bedplate_appended_value_bytes_total")
    assert written > 5 * sum(map(len, state.values())), "mostly overwrites"
    settles(daemon)
    assert daemon.metric("bedplate_cleaned_segments_total") > 0
    check(daemon, state)

    kept = {key: state[key] for key in sorted(state)[::100]}
    kv, doomed = daemon.kv(), sorted(state.keys() - kept.keys())
    for at in range(0, len(doomed), BATCH):
        ops = [pb.BatchOp(delete_key=key) for key in doomed[at : at + BATCH]]
        kv.Batch(pb.BatchRequest(ops=ops))
    settles(daemon)
    assert taken(daemon.store) < 8 * SEGMENT
    check(daemon, kept)
    daemon.kill()
    daemon.start()
    check(daemon, kept)
    settles(daemon)
    assert daemon.stop() == 0
