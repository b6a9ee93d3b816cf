"""KVService over gRPC beside etcd and Redis. A figure counts if the server's counters agree."""

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from bench.comparison import Comparison
from bench.process import BenchError, Record, run_text
from bench.profile import profile_server
from bench.report import Row
from bench.servers import Endpoint, bedplated, etcd, etcd_programs, redis, redis_version
from bench.setting import Measure, Setting, find

BATCH_OPS, BATCH_INFLIGHT, BATCH_RATIO = 100, 16, 3.0
UNARY_INFLIGHT, UNARY_KEYS = 64, 100_000
EMPTY_MESSAGE, EMPTY_CALLS = bytes(5), 20_000  # the gRPC prefix of a message without fields


class System:
    """A server under load, whose counters are compared after every run."""

    def __init__(self, setting: Setting, endpoint: Endpoint) -> None:
        self.setting = setting
        self.endpoint = endpoint
        self.keys_stored = 0

    def load(self, work: str, *options: str) -> Record:
        """One run; BenchError when the server counted other calls or holds other keys."""
        before = self.endpoint.ok_calls(self._method(work))
        record = self.setting.load(work, *self.endpoint.arguments(), *options)
        counted = self.endpoint.ok_calls(self._method(work)) - before
        if counted != record["ok"]:
            raise BenchError(
                f"{self.endpoint.name} counted {counted} OK calls of {work}, "
                f"the client {record['ok']}"
            )
        # Every run visits the keys in one order from its start, so the longest run names them all.
        self.keys_stored = max(self.keys_stored, record["distinct_keys"])
        held = self.setting.load("count", *self.endpoint.arguments())["keys"]
        if held != self.keys_stored:
            raise BenchError(
                f"{self.endpoint.name} holds {held} keys, {self.keys_stored} were acknowledged"
            )
        return record

    def speed(self, work: str, *options: str) -> float:
        """Operations a second."""
        speed: float = self.load(work, *options)["ops_per_s"]
        return speed

    def batch_work(self) -> str:
        """The work that writes many keys atomically."""
        return "batch" if self.endpoint.api == "bedplate" else "txn"

    def _method(self, work: str) -> str:
        if work == "get" and self.endpoint.api == "etcd":
            return "Range"
        return work.capitalize()


@contextmanager
def _systems(setting: Setting) -> Iterator[tuple[System, dict[str, System]]]:
    """Our daemon and every etcd, all fresh."""
    with ExitStack() as stack:
        ours = System(setting, stack.enter_context(bedplated(setting)))
        rivals = {
            name: System(setting, stack.enter_context(etcd(setting, program, name)))
            for name, program in etcd_programs().items()
        }
        yield ours, rivals


def batches(setting: Setting) -> list[Row]:
    """Batches of 100 puts, 16 in flight, on one connection and on four."""
    with _systems(setting) as (ours, rivals):
        return [_batch_row(setting, ours, rivals, connections) for connections in (1, 4)]


def _batch_row(setting: Setting, ours: System, rivals: dict[str, System], connections: int) -> Row:
    options = ["--inflight", str(BATCH_INFLIGHT), "--connections", str(connections)]
    options += ["--ops", str(BATCH_OPS), "--keys", str(setting.keys)]
    options += ["--seconds", str(setting.seconds)]

    def measure(system: System) -> Measure:
        return partial(system.speed, system.batch_work(), *options)

    plural = f"{connections} connection" + "s" * (connections > 1)
    comparison = Comparison(
        f"gRPC Batch of {BATCH_OPS} puts, {BATCH_INFLIGHT} in flight, {plural}",
        "k puts/s",
        1e3,
        ratio_least=BATCH_RATIO,
        goal=f">= {BATCH_RATIO:g}x etcd's {BATCH_OPS}-op Txn, the better etcd",
        profile=partial(profile_server, setting, ours.endpoint.pid, measure(ours)),
    )
    others = {name: measure(system) for name, system in rivals.items()}
    return comparison.row(setting, measure(ours), others)


def unary(setting: Setting) -> list[Row]:
    """One key a call, 64 in flight, one connection; and calls that do nothing. For comparison."""
    with _systems(setting) as (ours, rivals), redis(setting) as port:
        keys = ("--keys", str(UNARY_KEYS))
        for system in (ours, *rivals.values()):
            system.load("put", "--count", str(UNARY_KEYS), *keys, "--order", "ascending")
        rows = [_unary_row(setting, ours, rivals, work, port) for work in ("put", "get")]
        rows.append(_empty_row(setting, ours, rivals))
        return rows


def _unary_row(
    setting: Setting, ours: System, rivals: dict[str, System], work: str, redis_port: int
) -> Row:
    options = ["--inflight", str(UNARY_INFLIGHT), "--keys", str(UNARY_KEYS)]
    options += ["--seconds", str(setting.seconds)]
    comparison = Comparison(
        f"gRPC unary {work}, {UNARY_INFLIGHT} in flight, 1 connection",
        "k/s",
        1e3,
        goal="printed beside etcd",
        rounds=setting.few_rounds,
        counted=frozenset(rivals),
    )
    others: dict[str, Measure] = {
        name: partial(system.speed, work, *options) for name, system in rivals.items()
    }
    command = "set" if work == "put" else "get"
    others[f"{redis_version()} {command}, appendfsync always, {UNARY_INFLIGHT} connections"] = (
        partial(_redis_speed, setting, redis_port, command)
    )
    return comparison.row(setting, partial(ours.speed, work, *options), others)


def _empty_row(setting: Setting, ours: System, rivals: dict[str, System]) -> Row:
    comparison = Comparison(
        f"gRPC calls that do nothing (health Check by h2load), {UNARY_INFLIGHT} in flight",
        "k/s",
        1e3,
        rounds=setting.few_rounds,
    )
    others = {name: partial(_h2load, setting, system.endpoint) for name, system in rivals.items()}
    return comparison.row(setting, partial(_h2load, setting, ours.endpoint), others)


def _h2load(setting: Setting, endpoint: Endpoint) -> float:
    """Calls a second; BenchError unless the server counted every one as OK."""
    body = setting.scratch / "empty.bin"
    body.write_bytes(EMPTY_MESSAGE)
    before = endpoint.ok_calls("Check")
    argv = [find("h2load"), "-c", "1", "-m", str(UNARY_INFLIGHT), "-n", str(EMPTY_CALLS)]
    argv += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    argv.append(f"http://{endpoint.address}/grpc.health.v1.Health/Check")
    output = run_text(argv, setting.journal)
    counted = endpoint.ok_calls("Check") - before
    if counted != EMPTY_CALLS:
        raise BenchError(f"{endpoint.name} counted {counted} OK calls, h2load made {EMPTY_CALLS}")
    for line in output.splitlines():
        if line.startswith("finished in"):
            return float(line.split(",")[1].split()[0])
    raise BenchError(f"h2load printed no speed: {output[-300:]}")


def _redis_speed(setting: Setting, port: int, command: str) -> float:
    argv = [find("redis-benchmark"), "-p", str(port), "-t", command, "-d", "256"]
    argv += ["-r", str(UNARY_KEYS), "-c", str(UNARY_INFLIGHT), "-n", "30000", "--csv"]
    output = run_text(argv, setting.journal)
    for row in csv.reader(output.splitlines()):
        if len(row) > 1 and row[0].lower() == command:
            return float(row[1])
    raise BenchError(f"redis-benchmark printed no speed: {output[-300:]}")
