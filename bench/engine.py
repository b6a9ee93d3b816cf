"""The engine in process beside RocksDB: puts, batches, reads, recovery, memory, checksums."""

from bench.profile import profile_command
from bench.report import Row
from bench.rocksdb import RocksDB
from bench.setting import Setting, interleave
from bench.stats import Spread

PUT_THREADS_RATIO = 3.0
RAW_RATIO_MAX = 1.1
ASYNC_RANDOM, ASYNC_ASCENDING = 700_000.0, 1_000_000.0
GET_RATIO = 4.0
CHECKPOINT_MS, LOG_MS, LOG_RATIO = 400.0, 1500.0, 0.5
MEMORY_BYTES = 96.0
CRC_GB_S = 10.0
SCAN_KEYS = 100


def durable_put(setting: Setting) -> list[Row]:
    """Puts that wait for their own sync, at 64, 16 and 1 threads."""
    rocksdb = RocksDB.find(setting)
    rows = []
    for threads in (64, 16, 1):
        work = f"durable put, {threads} thread{'s' * (threads > 1)}, each waiting for its own sync"
        options = ("--threads", str(threads), "--seconds", str(setting.seconds))
        values = interleave(
            setting,
            work,
            {
                "ours": lambda options=options: setting.engine("put", *options)[0]["ops_per_s"],
                "rocksdb": lambda threads=threads: rocksdb.durable_put(threads, setting.seconds)[0],
                "pipelined": lambda threads=threads: rocksdb.durable_put(
                    threads, setting.seconds, "--enable_pipelined_write=true"
                )[0],
            },
            setting.rounds if threads == 64 else min(3, setting.rounds),
        )
        best = max(("rocksdb", "pipelined"), key=lambda name: Spread.of(values[name]).median)
        ratio = Spread.of_ratios(values["ours"], values[best])
        judged = threads == 64
        met = ratio.median >= PUT_THREADS_RATIO if judged else None
        rows.append(
            Row(
                work,
                Spread.of(values["ours"]).text("k/s", 1e3),
                f"RocksDB{' (pipelined write)' * (best == 'pipelined')} "
                + Spread.of(values[best]).text("k/s", 1e3),
                ratio.text("x"),
                f">= {PUT_THREADS_RATIO:g}x RocksDB" if judged else "",
                met,
                {name: Spread.of(value) for name, value in values.items()} | {"ratio": ratio},
                profile_command(setting, setting.engine_argv("put", *options))
                if met is False
                else "",
            )
        )
    return rows


def put_latency(setting: Setting) -> list[Row]:
    """One thread beside bare pwrite + fdatasync of as many bytes into a file prepared the same way."""
    seconds = str(max(0.5, setting.seconds / 3))
    first = setting.engine("put", "--seconds", seconds)[0]
    size = str(int(first["bytes_per_group"]) + FRAME_HEADER_BYTES)
    raw = ("--seconds", seconds, "--size", size)
    values = interleave(
        setting,
        "durable put, one thread, p50",
        {
            "ours": lambda: setting.engine("put", "--seconds", seconds)[0]["p50_us"],
            "raw": lambda: setting.engine("raw", *raw)[0]["p50_us"],
            "zeros": lambda: setting.engine("raw", *raw, "--prepare", "zeros")[0]["p50_us"],
        },
        setting.pairs,
    )
    ratio = Spread.of_ratios(values["ours"], values["raw"])
    zeros = Spread.of(values["zeros"])
    met = ratio.median <= RAW_RATIO_MAX
    return [
        Row(
            f"durable put, one thread, p50, {ratio.rounds} pairs",
            Spread.of(values["ours"]).text("us"),
            f"raw fdatasync of {size} B {Spread.of(values['raw']).text('us')}; "
            f"into a file written with zeros before {zeros.text('us')}",
            ratio.text("x"),
            f"<= {RAW_RATIO_MAX:g}x raw",
            met,
            {name: Spread.of(value) for name, value in values.items()} | {"ratio": ratio},
            "" if met else profile_command(setting, setting.engine_argv("put", "--seconds", "3")),
        )
    ]


FRAME_HEADER_BYTES = 64  # of the frame around a group's entries


def async_batches(setting: Setting) -> list[Row]:
    """1,024 puts in flight from one thread: every key inserted, then every key updated."""
    rows = []
    cases = (("random", 64, ASYNC_RANDOM), ("ascending", 64, ASYNC_ASCENDING), ("random", 1, None))
    for order, batch, goal in cases:
        options = ("--order", order, "--batch", str(batch), "--keys", str(setting.keys))
        records = []
        work = f"async puts in batches of {batch}, window 1,024, {order} over {setting.keys:,} keys"
        for _ in setting.each_round(work, min(5, setting.rounds)):
            records.append(setting.engine("async", *options))
        speed = Spread.of([round_[-1]["puts_per_s"] for round_ in records])
        parts = {
            part: Spread.of(
                [r["puts_per_s"] for round_ in records for r in round_ if r["part"] == part]
            )
            for part in ("insert", "update")
        }
        disk = Spread.of([round_[-1]["disk_mb_per_s"] for round_ in records])
        sync = Spread.of([round_[-1]["sync_share"] for round_ in records])
        met = None if goal is None else speed.median >= goal
        rows.append(
            Row(
                work,
                f"{speed.text('M/s', 1e6)}; insert {parts['insert'].text('', 1e6)}, "
                f"update {parts['update'].text('', 1e6)}; {disk.text('MB/s')} to disk; "
                f"{sync.median:.0%} of the time in fdatasync",
                goal="" if goal is None else f">= {goal / 1e6:g} M/s",
                met=met,
                spreads={"puts_per_s": speed, "disk_mb_per_s": disk, "sync_share": sync, **parts},
                profile=profile_command(setting, setting.engine_argv("async", *options))
                if met is False
                else "",
            )
        )
    return rows


def reads(setting: Setting) -> list[Row]:
    """Point gets and scans of random keys beside RocksDB with all data in its block cache."""
    rocksdb = RocksDB.find(setting)
    database = setting.directory("rocksdb-read")
    rocksdb.fill_sorted(database)
    rows = []
    for threads in (1, 16, 64):
        rows.append(_get(setting, rocksdb, threads))
    work = f"scan of {SCAN_KEYS} keys with values, 1 thread"
    options = (
        "--limit",
        str(SCAN_KEYS),
        "--seconds",
        str(setting.seconds),
        "--keys",
        str(setting.keys),
    )
    values = interleave(
        setting,
        work,
        {
            "ours": lambda: setting.engine("scan", *options)[0]["ops_per_s"],
            "rocksdb": lambda: rocksdb.scan(database, 1, setting.seconds, SCAN_KEYS),
        },
        min(3, setting.rounds),
    )
    ratio = Spread.of_ratios(values["ours"], values["rocksdb"])
    rows.append(
        Row(
            work,
            Spread.of(values["ours"]).text("k/s", 1e3) + ", encoded as a ScanResponse",
            f"RocksDB seekrandom {Spread.of(values['rocksdb']).text('k/s', 1e3)}",
            ratio.text("x"),
            spreads={name: Spread.of(value) for name, value in values.items()} | {"ratio": ratio},
        )
    )
    return rows


def _get(setting: Setting, rocksdb: RocksDB, threads: int) -> Row:
    database = setting.scratch / "rocksdb-read"
    work = f"point get, {threads} thread{'s' * (threads > 1)}, random over {setting.keys:,} keys"
    options = (
        "--threads",
        str(threads),
        "--seconds",
        str(setting.seconds),
        "--keys",
        str(setting.keys),
    )
    judged = threads == 1
    values = interleave(
        setting,
        work,
        {
            "ours": lambda: setting.engine("get", *options)[0]["ops_per_s"],
            "rocksdb": lambda: rocksdb.read_random(database, threads, setting.seconds),
        },
        setting.rounds if judged else min(3, setting.rounds),
    )
    ratio = Spread.of_ratios(values["ours"], values["rocksdb"])
    met = ratio.median >= GET_RATIO if judged else None
    return Row(
        work,
        Spread.of(values["ours"]).text("k/s", 1e3),
        f"RocksDB readrandom, block cache {Spread.of(values['rocksdb']).text('k/s', 1e3)}",
        ratio.text("x"),
        f">= {GET_RATIO:g}x RocksDB readrandom" if judged else "",
        met,
        {name: Spread.of(value) for name, value in values.items()} | {"ratio": ratio},
        profile_command(setting, setting.engine_argv("get", *options)) if met is False else "",
    )


def recovery(setting: Setting) -> list[Row]:
    """Opening after SIGKILL: with a current checkpoint, with none, and RocksDB's two."""
    rocksdb = RocksDB.find(setting)
    killed, copy = setting.scratch / "rocksdb-killed", setting.scratch / "rocksdb-open"
    rocksdb.fill_and_kill(killed)
    keys = ("--keys", str(setting.keys), "--repeats", "3")
    values: dict[str, list[float]] = {"checkpoint": [], "log": [], "wal": [], "flushed": []}
    for _ in setting.each_round("open after kill -9", min(3, setting.rounds)):
        ours = setting.engine("recover", "--checkpoint", *keys)
        values["checkpoint"].append(Spread.of([record["open_ms"] for record in ours]).median)
        ours = setting.engine("recover", *keys)
        values["log"].append(Spread.of([record["open_ms"] for record in ours]).median)
        values["wal"].append(rocksdb.open_ms(copy, copy_from=killed))
        values["flushed"].append(rocksdb.open_ms(copy))
    spreads = {name: Spread.of(value) for name, value in values.items()}
    ratio = Spread.of_ratios(values["log"], values["wal"])
    met_checkpoint = spreads["checkpoint"].median <= CHECKPOINT_MS
    met_log = spreads["log"].median <= LOG_MS and ratio.median <= LOG_RATIO
    subject = f"open after kill -9, {setting.keys:,} keys x 256 B"
    profile = (
        ""
        if met_log and met_checkpoint
        else profile_command(setting, setting.engine_argv("recover", *keys))
    )
    return [
        Row(
            f"{subject}, current checkpoint",
            spreads["checkpoint"].text("ms"),
            f"RocksDB, flushed {spreads['flushed'].text('ms')}",
            goal=f"<= {CHECKPOINT_MS:g} ms",
            met=met_checkpoint,
            spreads=spreads,
            profile=profile,
        ),
        Row(
            f"{subject}, no checkpoint",
            spreads["log"].text("ms"),
            f"RocksDB, unflushed WAL {spreads['wal'].text('ms')}",
            ratio.text("x"),
            f"<= {LOG_MS:g} ms and <= {LOG_RATIO:g}x RocksDB",
            met_log,
            spreads | {"ratio": ratio},
            profile,
        ),
    ]


def memory(setting: Setting) -> list[Row]:
    """Index memory beside the key: one version and a lease each."""
    keys = ("--keys", str(setting.keys))
    records = {
        order: setting.engine("memory", "--order", order, *keys)[0]
        for order in ("random", "ascending")
    }
    worst = max(record["beside_key_bytes"] for record in records.values())
    text = "; ".join(
        f"{order}: {record['beside_key_bytes']:.1f} B (the process grew by {record['rss_beside_key_bytes']:.1f} B)"
        for order, record in records.items()
    )
    return [
        Row(
            "index memory beside the key (one version, a lease)",
            text,
            goal=f"<= {MEMORY_BYTES:g} B a key",
            met=worst <= MEMORY_BYTES,
            spreads={
                name: Spread.of([record["beside_key_bytes"]]) for name, record in records.items()
            },
        )
    ]


def checksum(setting: Setting) -> list[Row]:
    """CRC32C of 4 KiB blocks."""
    speed = Spread.of(
        [
            setting.engine("crc", "--seconds", "0.5")[0]["gb_per_s"]
            for _ in setting.each_round("CRC32C", 5)
        ]
    )
    met = speed.median >= CRC_GB_S
    return [
        Row(
            "CRC32C on 4 KiB blocks",
            speed.text("GB/s"),
            goal=f">= {CRC_GB_S:g} GB/s",
            met=met,
            spreads={"gb_per_s": speed},
        )
    ]
