"""One large object over gRPC beside `dd conv=fsync` into the same file system."""

import re
from functools import partial

from bench.process import BenchError, peak_resident_bytes, reset_peak_resident, run_text
from bench.profile import profile_server
from bench.report import Row
from bench.servers import Endpoint, bedplated
from bench.setting import Setting
from bench.stats import Spread

MIB = 1 << 20
PUT_SHARE, GET_MB_S, RESIDENT_MB = 0.6, 700.0, 300.0
_DD = re.compile(r"(\d+) bytes .* copied, ([\d.e-]+) s")


def objects(setting: Setting) -> list[Row]:
    """Put, then get; every byte that comes back is compared by the client."""
    values: dict[str, list[float]] = {"dd": [], "put": [], "get": [], "resident_mb": []}
    size = f"{setting.object_bytes / (1 << 30):g} GiB"
    with bedplated(setting, "bedplated-objects") as endpoint:
        for number in setting.each_round(f"object of {size}", min(5, setting.rounds)):
            reset_peak_resident(endpoint.pid)
            values["dd"].append(_dd(setting))
            values["put"].append(_transfer(setting, endpoint, "object-put", number))
            values["get"].append(_transfer(setting, endpoint, "object-get", number))
            values["resident_mb"].append(peak_resident_bytes(endpoint.pid) / 1e6)
        spreads = {name: Spread.of(value) for name, value in values.items()}
        share = Spread.of_ratios(values["put"], values["dd"])
        put_met, get_met = share.median >= PUT_SHARE, spreads["get"].median >= GET_MB_S
        profile = ""
        if not put_met or not get_met:
            again = partial(_transfer, setting, endpoint, "object-put", number + 1)
            if put_met:
                again = partial(_transfer, setting, endpoint, "object-get", number)
            profile = profile_server(setting, endpoint.pid, again)
    return [
        Row(
            f"object of {size} over gRPC, put",
            spreads["put"].text("MB/s"),
            f"dd conv=fsync {spreads['dd'].text('MB/s')}",
            share.text("x"),
            f">= {PUT_SHARE:g}x dd",
            put_met,
            spreads | {"ratio": share},
            "" if put_met else profile,
        ),
        Row(
            f"object of {size} over gRPC, get",
            spreads["get"].text("MB/s"),
            goal=f">= {GET_MB_S:g} MB/s",
            met=get_met,
            profile="" if get_met else profile,
        ),
        Row(
            "peak RSS of the daemon meanwhile",
            spreads["resident_mb"].text("MB"),
            goal=f"< {RESIDENT_MB:g} MB",
            met=spreads["resident_mb"].most < RESIDENT_MB,
        ),
    ]


def _transfer(setting: Setting, endpoint: Endpoint, work: str, number: int) -> float:
    """Megabytes a second."""
    options = ("--object", f"object-{number}", "--bytes", str(setting.object_bytes))
    record = setting.load(work, *endpoint.arguments(), *options)
    if record["bytes"] != setting.object_bytes:
        raise BenchError(f"{work} moved {record['bytes']} bytes")
    speed: float = record["mb_per_s"]
    return speed


def _dd(setting: Setting) -> float:
    """Megabytes a second, the sync included."""
    path = setting.scratch / "dd.out"
    argv = [
        "dd",
        "if=/dev/zero",
        f"of={path}",
        "bs=1M",
        f"count={setting.object_bytes // MIB}",
        "conv=fsync",
    ]
    output = run_text(argv, setting.journal)
    path.unlink()
    match = _DD.search(output)
    if match is None:
        raise BenchError(f"dd printed no speed: {output}")
    return int(match[1]) / float(match[2]) / 1e6
