"""Reading from the engine in process beside RocksDB; opening it after a kill; its memory."""

from functools import partial
from pathlib import Path

from bench.comparison import Comparison, threads_text
from bench.profile import profile_command
from bench.report import Row
from bench.rocksdb import CACHE_BYTES, RocksDB
from bench.setting import Setting
from bench.stats import Spread

GET_RATIO = 4.0
SCAN_KEYS = 100
CHECKPOINT_MS, LOG_MS, LOG_RATIO = 400.0, 1500.0, 0.5
MEMORY_BYTES = 96.0
CRC_GB_S = 10.0


def reads(setting: Setting) -> list[Row]:
    """Point gets and scans of random keys; RocksDB has all data in a warm block cache."""
    rocksdb = RocksDB.find(setting)
    database = setting.directory("rocksdb-read")
    rocksdb.fill_sorted(database)
    rows = [_get(setting, rocksdb, database, threads) for threads in (1, 16, 64)]
    rows.append(_scan(setting, rocksdb, database))
    return rows


def _get(setting: Setting, rocksdb: RocksDB, database: Path, threads: int) -> Row:
    options = ("--threads", str(threads), *_common(setting))
    cached_options = (*options, "--cache", str(CACHE_BYTES))
    judged = threads == 1
    cached = f"RocksDB readrandom, cache of {CACHE_BYTES >> 20} MiB"
    comparison = Comparison(
        f"point get, {threads_text(threads)}, random over {setting.keys:,} keys, "
        f"cache of {CACHE_BYTES >> 20} MiB",
        "k/s",
        1e3,
        ratio_least=GET_RATIO if judged else None,
        goal=f">= {GET_RATIO:g}x RocksDB readrandom" if judged else "",
        rounds=setting.rounds if judged else setting.few_rounds,
        counted=frozenset({cached}),
        profile=partial(profile_command, setting, setting.engine_argv("get", *cached_options)),
    )
    read = partial(rocksdb.read_random, database, threads, setting.seconds)
    rivals = {cached: read}
    if judged:
        rivals["its default cache"] = partial(read, cache=False)
        rivals["its mmap_read"] = partial(read, "--mmap_read=true")
        rivals["ours with our default cache"] = partial(_speed, setting, "get", *options)
    return comparison.row(setting, partial(_speed, setting, "get", *cached_options), rivals)


def _scan(setting: Setting, rocksdb: RocksDB, database: Path) -> Row:
    options = ("--limit", str(SCAN_KEYS), *_common(setting))
    ours = partial(_speed, setting, "scan", *options)
    cache = f"cache of {CACHE_BYTES >> 20} MiB"
    cached = f"RocksDB seekrandom, {cache}"
    comparison = Comparison(
        f"scan of {SCAN_KEYS} keys with values, encoded as a reply, 1 thread, {cache}",
        "k/s",
        1e3,
        rounds=setting.few_rounds,
        counted=frozenset({cached}),
    )
    rivals = {
        cached: partial(rocksdb.scan, database, 1, setting.seconds, SCAN_KEYS),
        "ours with our default cache": ours,
        "the same, written in order of key": partial(ours, "--order", "ascending"),
    }
    return comparison.row(setting, partial(ours, "--cache", str(CACHE_BYTES)), rivals)


def _common(setting: Setting) -> tuple[str, ...]:
    return ("--seconds", str(setting.seconds), "--keys", str(setting.keys))


def _speed(setting: Setting, command: str, *options: str) -> float:
    speed: float = setting.engine(command, *options)[0]["ops_per_s"]
    return speed


def recovery(setting: Setting) -> list[Row]:
    """Opening after SIGKILL: with a current checkpoint, with none, and RocksDB's two."""
    rocksdb = RocksDB.find(setting)
    killed, copy = setting.scratch / "rocksdb-killed", setting.scratch / "rocksdb-open"
    rocksdb.fill_and_kill(killed)
    values: dict[str, list[float]] = {"checkpoint": [], "log": [], "wal": [], "flushed": []}
    for _ in setting.each_round("open after kill -9", setting.few_rounds):
        values["checkpoint"].append(_open_ms(setting, "--checkpoint"))
        values["log"].append(_open_ms(setting))
        values["wal"].append(rocksdb.open_ms(copy, copy_from=killed))
        values["flushed"].append(rocksdb.open_ms(copy))
    spreads = {name: Spread.of(value) for name, value in values.items()}
    return [_checkpoint_row(setting, spreads), _log_row(setting, spreads, values)]


def _open_ms(setting: Setting, *options: str) -> float:
    records = setting.engine("recover", *options, "--keys", str(setting.keys), "--repeats", "3")
    return Spread.of([record["open_ms"] for record in records]).median


def _profile_open(setting: Setting, *options: str) -> str:
    argv = setting.engine_argv("recover", *options, "--keys", str(setting.keys), "--repeats", "20")
    return profile_command(setting, argv)


def _checkpoint_row(setting: Setting, spreads: dict[str, Spread]) -> Row:
    met = spreads["checkpoint"].median <= CHECKPOINT_MS
    return Row(
        f"open after kill -9, {setting.keys:,} keys x 256 B, current checkpoint",
        spreads["checkpoint"].text("ms"),
        f"RocksDB, flushed {spreads['flushed'].text('ms')}",
        goal=f"<= {CHECKPOINT_MS:g} ms",
        met=met,
        spreads=spreads,
        profile="" if met else _profile_open(setting, "--checkpoint"),
    )


def _log_row(setting: Setting, spreads: dict[str, Spread], values: dict[str, list[float]]) -> Row:
    ratio = Spread.of_ratios(values["log"], values["wal"])
    met = spreads["log"].median <= LOG_MS and ratio.median <= LOG_RATIO
    return Row(
        f"open after kill -9, {setting.keys:,} keys x 256 B, no checkpoint",
        spreads["log"].text("ms"),
        f"RocksDB, unflushed WAL {spreads['wal'].text('ms')}",
        ratio.text("x"),
        f"<= {LOG_MS:g} ms and <= {LOG_RATIO:g}x RocksDB",
        met,
        spreads | {"ratio": ratio},
        "" if met else _profile_open(setting),
    )


def memory(setting: Setting) -> list[Row]:
    """Index memory beside the key: one version and a lease each."""
    texts, spreads = [], {}
    for order in ("random", "ascending"):
        options = ("--order", order, "--keys", str(setting.keys))
        record = setting.engine("memory", *options)[0]
        beside, grown = record["beside_key_bytes"], record["rss_beside_key_bytes"]
        spreads[order] = Spread.of([beside])
        texts.append(f"{order} {beside:.1f} B (the process grew by {grown:.1f} B)")
    worst = max(spread.median for spread in spreads.values())
    work = "index memory beside the key (one version, a lease)"
    goal = f"<= {MEMORY_BYTES:g} B a key"
    return [Row(work, "; ".join(texts), goal=goal, met=worst <= MEMORY_BYTES, spreads=spreads)]


def checksum(setting: Setting) -> list[Row]:
    """CRC32C of 4 KiB blocks."""
    rounds = setting.each_round("CRC32C", setting.rounds)
    speed = Spread.of([setting.engine("crc", "--seconds", "0.5")[0]["gb_per_s"] for _ in rounds])
    met = speed.median >= CRC_GB_S
    goal = f">= {CRC_GB_S:g} GB/s"
    spreads = {"gb_per_s": speed}
    return [Row("CRC32C on 4 KiB blocks", speed.text("GB/s"), goal=goal, met=met, spreads=spreads)]
