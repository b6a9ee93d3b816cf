"""How long nobody's writes are acknowledged when the leader goes, and whether it is ever given up
without need.
"""

import json
import subprocess
import time
from collections.abc import Callable

from bench.cluster_servers import Cluster, Node, bedplate_cluster, etcd_cluster
from bench.network import BATCH_INFLIGHT, BATCH_OPS, UNARY_INFLIGHT, UNARY_KEYS
from bench.process import BenchError, Record
from bench.report import Row
from bench.setting import Setting, load_program
from bench.stats import Spread, short

ROUNDS, FEW_ROUNDS = 50, 10
KILL_P50_MS, KILL_MAX_MS, STOP_P50_MS = 1000.0, 2000.0, 2500.0
BEFORE_S = 0.8
KILL_AFTER_S, STOP_AFTER_S = 3.0, 5.0
WARMUP_S = 0.4  # of the prober, whose clock starts a little after ours
ETCD_AFTER_S = 5.0
LOAD_S = 60.0
ELECTION_MINUTES = 10.0

Strike = Callable[[Cluster, Node], None]


def kill(setting: Setting) -> list[Row]:
    """SIGKILL of the leader."""
    rounds = 3 if setting.rounds < 5 else ROUNDS
    goal = f"p50 <= {KILL_P50_MS / 1e3:g} s, max <= {KILL_MAX_MS / 1e3:g} s"
    ours, etcd = _failover(setting, Cluster.kill, rounds, KILL_AFTER_S)
    gaps = Spread.of(ours)
    met = gaps.median <= KILL_P50_MS and gaps.most <= KILL_MAX_MS
    return [_row("failover, SIGKILL", ours, etcd, goal, met)]


def stop(setting: Setting) -> list[Row]:
    """SIGSTOP of the leader: its connections stay."""
    rounds = 3 if setting.rounds < 5 else FEW_ROUNDS
    ours, etcd = _failover(setting, Cluster.pause, rounds, STOP_AFTER_S)
    met = Spread.of(ours).median <= STOP_P50_MS
    return [_row("failover, SIGSTOP", ours, etcd, f"p50 <= {STOP_P50_MS / 1e3:g} s", met)]


def _row(work: str, ours: list[float], etcd: list[float], goal: str, met: bool) -> Row:
    mine, other = Spread.of(ours), Spread.of(etcd)
    return Row(
        f"3 nodes: {work}, time without acknowledged writes, {len(ours)} rounds",
        mine.text("s", 1e3),
        f"etcd {other.text('s', 1e3)} ({len(etcd)} rounds)",
        goal=goal,
        met=met,
        spreads={"gap_ms": mine, "etcd_gap_ms": other},
    )


def _failover(
    setting: Setting, strike: Strike, rounds: int, after_s: float
) -> tuple[list[float], list[float]]:
    """Milliseconds without an acknowledgement, of ours and of etcd's rounds, in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    with bedplate_cluster(setting) as mine, etcd_cluster(setting) as etcd:
        for number in setting.each_round(f"failover, {strike.__name__}", rounds):
            ours.append(_once(mine, strike, after_s))
            if number % max(1, rounds // FEW_ROUNDS) == 0:
                theirs.append(_once(etcd, strike, ETCD_AFTER_S))
    return ours, theirs


def _once(cluster: Cluster, strike: Strike, after_s: float) -> float:
    leader = cluster.leader()
    prober = _start_prober(cluster, BEFORE_S + after_s)
    try:
        time.sleep(BEFORE_S)
        strike(cluster, leader)
        successor = cluster.leader()
        record = _result(prober)
    finally:
        prober.kill()
        prober.wait()
        if leader.paused:
            cluster.resume(leader)
    if not leader.running:
        cluster.start(leader)
        cluster.await_serving(leader)
    cluster.leader()
    cluster.level()
    if successor is leader or record["gap_ms"] == record["silent_at_end_ms"]:
        raise BenchError(f"{cluster.name}: no failover was seen: {json.dumps(record)}")
    gap: float = record["gap_ms"]
    return gap


def _start_prober(cluster: Cluster, seconds: float) -> subprocess.Popen[str]:
    """Puts at every member."""
    argv = [str(load_program()), "probe", "--api", cluster.api, "--seconds", f"{seconds:g}"]
    argv += ["--address", cluster.addresses(), "--warmup", f"{WARMUP_S:g}"]
    cluster.setting.journal.note(argv)
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    )


def _result(prober: subprocess.Popen[str]) -> Record:
    """What came of them, once it is done."""
    said, _ = prober.communicate(timeout=60)
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        raise BenchError(f"the prober gave {prober.returncode} and no result")
    record: Record = json.loads(lines[-1])
    return record


def elections(setting: Setting) -> list[Row]:
    """Full load, and nobody may stand for election."""
    minutes = 0.2 if setting.rounds < 5 else ELECTION_MINUTES
    works = {
        "put": ["--inflight", str(UNARY_INFLIGHT), "--keys", str(UNARY_KEYS)],
        "batch": ["--inflight", str(BATCH_INFLIGHT), "--ops", str(BATCH_OPS)],
    }
    with bedplate_cluster(setting) as cluster:
        before, begun, calls = cluster.term(), time.monotonic(), 0
        while (left := begun + minutes * 60 - time.monotonic()) > 0:
            for work, options in works.items():
                seconds = str(max(1.0, min(LOAD_S, left) / len(works)))
                setting.say(f"elections: {work} for {seconds} s")
                arguments = cluster.leader().endpoint.arguments()
                record = setting.load(work, *arguments, *options, "--seconds", seconds)
                calls += record["ok"]
        changes = cluster.term() - before
    return [
        Row(
            f"3 nodes: false elections in {short(minutes)} minutes of full load",
            f"{changes:.0f} ({calls} calls)",
            goal="none",
            met=changes == 0,
        )
    ]
