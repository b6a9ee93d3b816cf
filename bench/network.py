"""KVService over gRPC beside etcd and Redis. A figure counts only if the server's own counters agree."""

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.process import BenchError, Record, run_text
from bench.profile import profile_server
from bench.report import Row
from bench.servers import Endpoint, bedplated, etcd, etcd_programs, redis, redis_version
from bench.setting import Setting, find, interleave
from bench.stats import Spread

BATCH_OPS, BATCH_INFLIGHT, BATCH_RATIO = 100, 16, 3.0
UNARY_INFLIGHT, UNARY_KEYS = 64, 100_000
EMPTY_MESSAGE = bytes(5)  # gRPC prefix of a message without fields


@contextmanager
def _systems(setting: Setting) -> Iterator[tuple[Endpoint, list[Endpoint]]]:
    """Our daemon and every etcd, all fresh."""
    with ExitStack() as stack:
        ours = stack.enter_context(bedplated(setting))
        rivals = [
            stack.enter_context(etcd(setting, program, name))
            for name, program in etcd_programs().items()
        ]
        yield ours, rivals


class Checked:
    """Load on one server whose counters are compared after every run."""

    def __init__(self, setting: Setting, endpoint: Endpoint) -> None:
        self.setting = setting
        self.endpoint = endpoint
        self.keys_stored = 0

    def load(self, work: str, method: str, *options: str) -> Record:
        """One run; BenchError when the server counted other calls or holds other keys."""
        before = self.endpoint.ok_calls(method)
        record = self.setting.load(work, *self.endpoint.arguments(), *options)
        counted = self.endpoint.ok_calls(method) - before
        if counted != record["ok"]:
            raise BenchError(
                f"{self.endpoint.name} counted {counted} OK calls of {method}, "
                f"the client {record['ok']}"
            )
        # Every run visits the keys in the same order from its start: the longest run says how many there are.
        self.keys_stored = max(self.keys_stored, record["distinct_keys"])
        held = self.setting.load("count", *self.endpoint.arguments())["keys"]
        if held != self.keys_stored:
            raise BenchError(
                f"{self.endpoint.name} holds {held} keys, {self.keys_stored} were acknowledged"
            )
        return record


def batches(setting: Setting) -> list[Row]:
    """Batches of 100 puts, 16 in flight, on one connection and on four."""
    rows = []
    with _systems(setting) as (ours, rivals):
        checked = {"ours": Checked(setting, ours)}
        checked |= {rival.name: Checked(setting, rival) for rival in rivals}
        for connections in (1, 4):
            rows.append(_batch_row(setting, checked, connections))
    return rows


def _batch_row(setting: Setting, checked: dict[str, Checked], connections: int) -> Row:
    def measure(system: Checked) -> float:
        work, method = ("batch", "Batch") if system.endpoint.api == "bedplate" else ("txn", "Txn")
        speed: float = system.load(work, method, *options)["ops_per_s"]
        return speed

    options = ("--inflight", str(BATCH_INFLIGHT), "--connections", str(connections))
    options += (
        "--ops",
        str(BATCH_OPS),
        "--keys",
        str(setting.keys),
        "--seconds",
        str(setting.seconds),
    )
    plural = f"{connections} connection{'s' * (connections > 1)}"
    work = f"gRPC Batch of {BATCH_OPS} puts, {BATCH_INFLIGHT} in flight, {plural}"
    values = interleave(
        setting,
        work,
        {name: lambda system=system: measure(system) for name, system in checked.items()},
    )
    best = _best(values)
    ratio = Spread.of_ratios(values["ours"], values[best])
    met = ratio.median >= BATCH_RATIO
    pid = checked["ours"].endpoint.pid
    return Row(
        work,
        Spread.of(values["ours"]).text("k puts/s", 1e3),
        _rivals(values, "k puts/s", 1e3),
        ratio.text("x"),
        f">= {BATCH_RATIO:g}x etcd's {BATCH_OPS}-op Txn",
        met,
        {name: Spread.of(value) for name, value in values.items()} | {"ratio": ratio},
        "" if met else profile_server(setting, pid, lambda: measure(checked["ours"])),
    )


def unary(setting: Setting) -> list[Row]:
    """One key a call, 64 in flight, one connection; and calls that do nothing. For comparison."""
    rows = []
    with _systems(setting) as (ours, rivals), redis(setting) as redis_port:
        checked = {"ours": Checked(setting, ours)}
        checked |= {rival.name: Checked(setting, rival) for rival in rivals}
        keys = ("--keys", str(UNARY_KEYS))
        for system in checked.values():
            system.load("put", "Put", "--count", str(UNARY_KEYS), *keys, "--order", "ascending")
        for work in ("put", "get"):
            rows.append(_unary_row(setting, checked, work, redis_port))
        rows.append(_empty_row(setting, [ours, *rivals]))
    return rows


def _unary_row(setting: Setting, checked: dict[str, Checked], work: str, redis_port: int) -> Row:
    def measure(system: Checked) -> float:
        method = "Put" if work == "put" else "Get" if system.endpoint.api == "bedplate" else "Range"
        speed: float = system.load(work, method, *options)["ops_per_s"]
        return speed

    options = ("--inflight", str(UNARY_INFLIGHT), "--keys", str(UNARY_KEYS))
    options += ("--seconds", str(setting.seconds))
    title = f"gRPC unary {work}, {UNARY_INFLIGHT} in flight"
    measures = {name: lambda system=system: measure(system) for name, system in checked.items()}
    measures["redis"] = lambda: _redis_speed(setting, redis_port, "set" if work == "put" else "get")
    values = interleave(setting, title, measures, min(3, setting.rounds))
    best = _best({name: value for name, value in values.items() if name != "redis"})
    ratio = Spread.of_ratios(values["ours"], values[best])
    return Row(
        title,
        Spread.of(values["ours"]).text("k/s", 1e3),
        _rivals(values, "k/s", 1e3),
        ratio.text("x"),
        "beside etcd",
        spreads={name: Spread.of(value) for name, value in values.items()} | {"ratio": ratio},
    )


def _empty_row(setting: Setting, endpoints: list[Endpoint]) -> Row:
    values = interleave(
        setting,
        "empty gRPC calls",
        {
            endpoint.name: lambda endpoint=endpoint: _h2load(setting, endpoint)
            for endpoint in endpoints
        },
        min(3, setting.rounds),
    )
    ours = endpoints[0].name
    return Row(
        f"gRPC health Check, {UNARY_INFLIGHT} in flight (h2load)",
        Spread.of(values[ours]).text("k/s", 1e3),
        _rivals({name: value for name, value in values.items() if name != ours}, "k/s", 1e3),
        spreads={name: Spread.of(value) for name, value in values.items()},
    )


def _h2load(setting: Setting, endpoint: Endpoint) -> float:
    """Calls a second; BenchError unless the server counted every one as OK."""
    body = setting.scratch / "empty.bin"
    body.write_bytes(EMPTY_MESSAGE)
    before = endpoint.ok_calls("Check")
    argv = [find("h2load"), "-c", "1", "-m", str(UNARY_INFLIGHT), "-n", "20000", "-d", str(body)]
    argv += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    output = run_text(
        [*argv, f"http://{endpoint.address}/grpc.health.v1.Health/Check"], setting.journal
    )
    counted = endpoint.ok_calls("Check") - before
    if counted != 20000:
        raise BenchError(f"{endpoint.name} counted {counted} OK calls of Check, h2load made 20000")
    for line in output.splitlines():
        if line.startswith("finished in"):
            return float(line.split(",")[1].split()[0])
    raise BenchError(f"h2load printed no speed: {output[-300:]}")


def _redis_speed(setting: Setting, port: int, work: str) -> float:
    argv = [
        find("redis-benchmark"),
        "-p",
        str(port),
        "-t",
        work,
        "-d",
        "256",
        "-r",
        str(UNARY_KEYS),
    ]
    argv += ["-c", str(UNARY_INFLIGHT), "-n", "20000", "--csv"]
    output = run_text(argv, setting.journal)
    rows = [
        row for row in csv.reader(output.splitlines()) if len(row) > 1 and row[0].lower() == work
    ]
    if not rows:
        raise BenchError(f"redis-benchmark printed no speed: {output[-300:]}")
    return float(rows[0][1])


def _best(values: dict[str, list[float]]) -> str:
    """The best rival: the better etcd counts."""
    return max(
        (name for name in values if name != "ours"), key=lambda name: Spread.of(values[name]).median
    )


def _rivals(values: dict[str, list[float]], unit: str, scale: float) -> str:
    names = {"redis": redis_version().removesuffix(" server") if "redis" in values else ""}
    return "; ".join(
        f"{names.get(name, name)} {Spread.of(value).text(unit, scale)}"
        for name, value in values.items()
        if name != "ours"
    )
