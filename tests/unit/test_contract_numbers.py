"""Numbers and configuration keys that the contract's comments name are those of the configuration.

    LIMITS table    //   limits.key_bytes_max   4096   bytes in a key
    running text    `limits.leases_max`, default 1000000   `limits.scan_page_max` (10000)

A key with a star stands for all that begin so; whatever is set as code and looks like a key is one.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bedplate.server.config import Config
from bedplate.storage.config import Section

PROTO = Path(__file__).resolve().parents[2] / "proto"
_TABLE = re.compile(r"^//   ([a-z]+\.[a-z_]+) +(\d+) ", re.MULTILINE)
_NAMED = re.compile(r"`([a-z]+\.[a-z_]+\*?)`")
_VALUED = re.compile(
    r"`([a-z]+\.[a-z_]+)`(?: [a-z]+){0,3}(?: \(|, )(?:default )?(\d+)(?: ([KMGT]iB))?\b"
)
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def defaults() -> dict[str, object]:
    """Of every key, as "section.key"."""
    return {
        f"{name}.{key}": item.default
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key, item in field.annotation.model_fields.items()
    }


def prose(text: str) -> str:
    """All comments in one line."""
    return " ".join(re.findall(r"^ *// ?(.*)", text, re.MULTILINE))


def numbers(text: str) -> Iterator[tuple[str, int]]:
    """Keys and the defaults that comments give them."""
    for key, number in _TABLE.findall(text):
        yield key, int(number)
    for key, number, unit in _VALUED.findall(prose(text)):
        yield key, int(number) * _UNITS[unit]


def keys(text: str) -> set[str]:
    return set(_NAMED.findall(prose(text))) | {key for key, _ in _TABLE.findall(text)}


def wrong(text: str) -> list[str]:
    """What a reader of these comments would be told in error."""
    known = defaults()
    unknown = [
        f"{key}: no such key"
        for key in sorted(keys(text))
        if not (any(k.startswith(key[:-1]) for k in known) if key.endswith("*") else key in known)
    ]
    return unknown + [
        f"{key}: the default is {known[key]}, not {number}"
        for key, number in numbers(text)
        if key in known and known[key] != number
    ]


CONTRACT = sorted(PROTO.rglob("*.proto"))


@pytest.mark.parametrize("path", CONTRACT, ids=lambda path: path.stem)
def test_the_manual_gives_the_defaults_of_the_configuration(path: Path) -> None:
    assert wrong(path.read_text()) == []


def test_both_ways_of_giving_a_default_are_read() -> None:
    found = [number for path in CONTRACT for number in numbers(path.read_text())]
    assert found.count(("limits.scan_page_max", 10000)) >= 2  # in the table and in the text
    assert ("limits.leases_max", 1_000_000) in found
    assert ("objects.upload_idle_max", 86400) in found
    assert ("admin.backup_seconds_max", 3600) in found
    assert ("kv.request_ids_max", 65536) in found
    assert found.count(("objects.part_size_min", 5 << 20)) >= 2


@pytest.mark.parametrize(
    ("comment", "complaint"),
    [
        ("//   limits.key_bytes_max    4097  bytes in a key", "limits.key_bytes_max: the default"),
        ("// At most `limits.leases_max`, default\n// 5, of them.", "limits.leases_max: the def"),
        ("// More than `limits.scan_page_max` (10) is none.", "limits.scan_page_max: the default"),
        ("// After `objects.upload_idle_max` seconds (default 9).", "objects.upload_idle_max: the"),
        ("// At most `limits.nothing_max`.", "limits.nothing_max: no such key"),
        ("// At most `limit.key_bytes_max`.", "limit.key_bytes_max: no such key"),
        ("// One of `limits.queues_*`.", "limits.queues_*: no such key"),
        ("//   objects.gone_max  1  nothing", "objects.gone_max: no such key"),
    ],
)
def test_what_is_not_so_is_noticed(comment: str, complaint: str) -> None:
    (found,) = wrong(comment)
    assert found.startswith(complaint)
