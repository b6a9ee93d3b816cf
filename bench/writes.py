"""Writing to the engine in process: durable puts beside RocksDB and raw writes, and batches."""

from functools import partial

from bench.comparison import Comparison, threads_text
from bench.process import Record
from bench.profile import profile_command
from bench.report import Row
from bench.rocksdb import RocksDB
from bench.setting import Setting
from bench.stats import Spread

PUT_RATIO, RAW_RATIO = 3.0, 1.1
ASYNC_RANDOM, ASYNC_ASCENDING = 700_000.0, 1_000_000.0
ASYNC_WINDOW = 1024
FRAME_HEADER_BYTES = 64  # of the frame around a group's entries


def durable_put(setting: Setting) -> list[Row]:
    """Puts that wait for their own sync, at 64, 16 and 1 threads."""
    rocksdb = RocksDB.find(setting)
    rows = []
    for threads in (64, 16, 1):
        options = ("--threads", str(threads), "--seconds", str(setting.seconds))
        judged = threads == 64
        plain = partial(rocksdb.durable_put, threads, setting.seconds)
        comparison = Comparison(
            f"durable put, {threads_text(threads)}, each waiting for its own sync",
            "k/s",
            1e3,
            ratio_least=PUT_RATIO if judged else None,
            goal=f">= {PUT_RATIO:g}x RocksDB" if judged else "",
            rounds=setting.rounds if judged else setting.few_rounds,
            profile=partial(profile_command, setting, setting.engine_argv("put", *options)),
        )
        rivals = {
            "RocksDB": plain,
            "with pipelined write": partial(plain, "--enable_pipelined_write=true"),
        }
        rows.append(comparison.row(setting, partial(_speed, setting, "put", *options), rivals))
    return rows


def put_latency(setting: Setting) -> list[Row]:
    """One thread beside bare pwrite + fdatasync of as many bytes into a file prepared alike."""
    seconds = ("--seconds", f"{max(0.5, setting.seconds / 3):.2f}")
    size = int(setting.engine("put", *seconds)[0]["bytes_per_group"]) + FRAME_HEADER_BYTES
    raw = (*seconds, "--size", str(size))
    alike = f"raw pwrite + fdatasync of {size} B"
    comparison = Comparison(
        f"durable put, one thread, p50, {setting.pairs} pairs",
        "us",
        ratio_most=RAW_RATIO,
        goal=f"<= {RAW_RATIO:g}x raw",
        rounds=setting.pairs,
        counted=frozenset({alike}),
        profile=partial(profile_command, setting, setting.engine_argv("put", "--seconds", "3")),
    )
    rivals = {
        alike: partial(_median_us, setting, "raw", *raw),
        "into a file of written zeros": partial(
            _median_us, setting, "raw", *raw, "--prepare", "zeros"
        ),
    }
    return [comparison.row(setting, partial(_median_us, setting, "put", *seconds), rivals)]


def async_batches(setting: Setting) -> list[Row]:
    """1,024 puts in flight from one thread: every key inserted, then every key updated."""
    return [
        _async_row(setting, "random", 64, ASYNC_RANDOM),
        _async_row(setting, "ascending", 64, ASYNC_ASCENDING),
        _async_row(setting, "random", 1, None),
    ]


def _async_row(setting: Setting, order: str, batch: int, goal: float | None) -> Row:
    over = f"{order} over {setting.keys:,} keys"
    work = f"async puts, batches of {batch}, window {ASYNC_WINDOW:,}, {over}"
    options = ["--order", order, "--batch", str(batch), "--window", str(ASYNC_WINDOW)]
    options += ["--keys", str(setting.keys)]
    rounds, ceilings = [], []
    for _ in setting.each_round(work):
        rounds.append(setting.engine("async", *options))
        ceilings.append(_ceiling(setting, rounds[-1][-1]))
    speed = _of_part(rounds, "all", "puts_per_s")
    insert = _of_part(rounds, "insert", "puts_per_s")
    update = _of_part(rounds, "update", "puts_per_s")
    disk = _of_part(rounds, "all", "disk_mb_per_s")
    sync = _of_part(rounds, "all", "sync_share")
    ceiling = Spread.of(ceilings)
    ratio = Spread.of_ratios([round_[-1]["puts_per_s"] for round_ in rounds], ceilings)
    met = None if goal is None else speed.median >= goal
    argv = setting.engine_argv("async", *options)
    return Row(
        work,
        f"{speed.text('M/s', 1e6)} (insert {insert.text('', 1e6)}, update {update.text('', 1e6)}); "
        f"{disk.text('MB/s')} to disk; {sync.median:.0%} of the time in fdatasync",
        f"the same groups written raw, nothing else: {ceiling.text('M/s', 1e6)}",
        ratio.text("x"),
        goal="" if goal is None else f">= {goal / 1e6:g} M/s",
        met=met,
        spreads={
            "puts_per_s": speed,
            "insert": insert,
            "update": update,
            "disk_mb_per_s": disk,
            "sync_share": sync,
            "raw": ceiling,
            "ratio": ratio,
        },
        profile=profile_command(setting, argv) if met is False else "",
    )


def _ceiling(setting: Setting, record: Record) -> float:
    """Puts a second if only the disk took time: pwrite + fdatasync of groups as large, now."""
    size = record["log_mb_per_s"] * 1e6 / record["puts_per_s"] * record["puts_per_group"]
    raw = setting.engine("raw", "--seconds", "0.6", "--size", str(4096 * round(size / 4096)))[0]
    puts_per_s: float = record["puts_per_group"] / raw["mean_us"] * 1e6
    return puts_per_s


def _of_part(rounds: list[list[Record]], part: str, field: str) -> Spread:
    return Spread.of(
        [record[field] for round_ in rounds for record in round_ if record["part"] == part]
    )


def _speed(setting: Setting, command: str, *options: str) -> float:
    speed: float = setting.engine(command, *options)[0]["ops_per_s"]
    return speed


def _median_us(setting: Setting, command: str, *options: str) -> float:
    median: float = setting.engine(command, *options)[0]["p50_us"]
    return median
