"""Bytes that changed on the disk: never returned, found by verify before a client finds them,
explained by fsck.
"""

import os
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from bedplate.api.admin.v1 import admin_pb2 as admin
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.native.operations import fsck
from tests.faults.conftest import MakeDaemon
from tests.faults.warm_daemon import WarmDaemon
from tests.integration.refusals import refused

KEYS = 40


def value_of(number: int) -> bytes:
    """Some with several checksums; unlike every other, so that it is found in the files."""
    return b"value %06d " % number * (1000 if number % 4 else 8000)


def filled(make: MakeDaemon, *settings: str, **options: Any) -> WarmDaemon:
    daemon = make(*settings, **options)
    daemon.start()
    kv = daemon.kv()
    for number in range(KEYS):
        kv.Put(pb.PutRequest(key=b"k%02d" % number, value=value_of(number)))
    return daemon


def flip(store: Path, number: int, at: int) -> tuple[Path, int]:
    """Flip a bit of a stored value; the file, and where the value begins in it."""
    for path in sorted(store.glob("*.log")):
        content = path.read_bytes()
        begin = content.find(value_of(number))
        if begin >= 0:
            fd = os.open(path, os.O_WRONLY)
            os.pwrite(fd, bytes([content[begin + at] ^ 0x10]), begin + at)
            os.close(fd)
            return path, begin
    raise AssertionError("the value is in no segment")


def verify(daemon: WarmDaemon) -> tuple[list[admin.Finding], admin.VerifySummary]:
    stub: Any = AdminServiceStub(daemon.channel())
    findings, summary = [], None
    for response in stub.Verify(admin.VerifyRequest()):
        if response.HasField("finding"):
            findings.append(response.finding)
        elif response.HasField("summary"):
            summary = response.summary
    assert summary is not None
    return findings, summary


def test_a_flipped_byte_is_found_before_a_client_does_and_is_never_returned(
    make: MakeDaemon,
) -> None:
    daemon = filled(make)
    assert verify(daemon)[0] == []
    victims = {8: 70_000, 17: 5}  # of one the second checksum, of one the first byte
    places = {number: flip(daemon.store, number, at) for number, at in victims.items()}

    findings, summary = verify(daemon)
    assert summary.findings == len(findings)
    named = {finding.key for finding in findings if finding.key}
    assert {key[-3:] for key in named} == {b"k08", b"k17"}
    assert {finding.file for finding in findings} == {
        f"store/{path.name}" for path, _ in places.values()
    }

    kv = daemon.kv()
    for number in victims:
        loss = refused(kv.Get, pb.GetRequest(key=b"k%02d" % number))
        assert (loss.code, loss.reason) == (grpc.StatusCode.DATA_LOSS, "VALUE_DAMAGED")
    scan = refused(kv.Scan, pb.ScanRequest(prefix=b"k"))
    assert (scan.code, scan.reason) == (grpc.StatusCode.DATA_LOSS, "VALUE_DAMAGED")
    keys = [item.key for item in kv.Scan(pb.ScanRequest(prefix=b"k", keys_only=True)).kvs]
    assert len(keys) == KEYS
    for number in set(range(KEYS)) - victims.keys():
        assert kv.Get(pb.GetRequest(key=b"k%02d" % number)).kv.value == value_of(number)
    kv.Put(pb.PutRequest(key=b"k08", value=b"new"))  # what is written again is whole again
    assert kv.Get(pb.GetRequest(key=b"k08")).kv.value == b"new"


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("flip@1:77", grpc.StatusCode.DATA_LOSS, "VALUE_DAMAGED"),
        ("eio@1", grpc.StatusCode.UNAVAILABLE, "IO_FAILED"),
    ],
)
def test_a_bad_read_is_an_error_and_the_next_one_is_good(
    make: MakeDaemon, fault: str, code: grpc.StatusCode, reason: str
) -> None:
    daemon = filled(make, failpoints={"value.read": fault})
    failed = refused(daemon.kv().Get, pb.GetRequest(key=b"k01"))
    assert (failed.code, failed.reason) == (code, reason)
    assert daemon.kv().Get(pb.GetRequest(key=b"k01")).kv.value == value_of(1)


def test_the_scrub_in_the_background_raises_the_alarm(make: MakeDaemon) -> None:
    daemon = filled(make)
    daemon.kill()
    scrubbing = make("scrub.bytes_per_second=64MiB", failpoints={"scrub.read": "flip@3x0:9"})
    scrubbing.start()
    scrubbing.wait_for("segment_damaged")
    assert scrubbing.metric("bedplate_scrub_findings_total") > 0
    kv = scrubbing.kv()
    for number in range(KEYS):  # it was the scrub's reads that were bad, not what is stored
        assert kv.Get(pb.GetRequest(key=b"k%02d" % number)).kv.value == value_of(number)


def test_damage_in_the_middle_refuses_the_start_and_fsck_explains_it(make: MakeDaemon) -> None:
    daemon = filled(make)
    assert daemon.stop() == 0
    daemon.close_channels()
    assert fsck(str(daemon.store)).sound
    path, begin = flip(daemon.store, 20, 3)

    assert not daemon.starts()
    assert daemon.process.poll() == 2
    (line,) = [line for line in daemon.output.splitlines() if not line.startswith("{")]
    assert line.startswith("bedplated: ")
    assert path.name in line
    named = re.search(r"offset (\d+)", line)
    assert named is not None, line
    assert begin - 4 * 1024 * 1024 < int(named[1]) <= begin  # the frame that holds it
    assert "fsck" in line

    report = fsck(str(daemon.store))
    assert not report.sound
    assert path.name in report.text
    assert named[1] in report.text


def test_what_fsck_salvages_is_a_store_with_everything_else(
    make: MakeDaemon, tmp_path: Path
) -> None:
    daemon = filled(make)
    daemon.kill()
    flip(daemon.store, 20, 3)
    (tmp_path / "salvaged" / "data").mkdir(parents=True)
    target = tmp_path / "salvaged" / "data" / "store"
    assert not fsck(str(daemon.store), str(target)).sound
    salvaged = make(directory=tmp_path / "salvaged")
    salvaged.start()
    found = {item.key: item.value for item in salvaged.kv().Scan(pb.ScanRequest(prefix=b"k")).kvs}
    expected = {b"k%02d" % number: value_of(number) for number in range(KEYS)}
    assert found.items() <= expected.items()
    assert expected.keys() - found.keys() <= {b"k20"}


def test_a_damaged_checkpoint_is_passed_over_for_the_older_one(make: MakeDaemon) -> None:
    daemon = make("checkpoint.log_bytes=1MiB", "log.segment_size=8MiB")
    daemon.start()
    kv = daemon.kv()
    number = 0
    while daemon.metric("bedplate_checkpoints_total") < 3:
        kv.Put(pb.PutRequest(key=b"k%02d" % (number % KEYS), value=value_of(number)))
        number += 1
    daemon.kill()
    newest = max(daemon.store.glob("*.ckpt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    daemon.start()
    for written in range(max(0, number - KEYS), number):
        got = daemon.kv().Get(pb.GetRequest(key=b"k%02d" % (written % KEYS)))
        assert got.kv.value == value_of(written)
    assert daemon.stop() == 0
