"""What commands print: results on stdout, for people or as JSON; everything else on stderr.

Keys and values are bytes. For people they are shown as text, with what does not print escaped; in
JSON they are text under their name when they are UTF-8, and base64 under NAME_base64 otherwise.
"""

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def shown(data: bytes) -> str:
    """Bytes as people read them, on one line."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def json_bytes(name: str, data: bytes) -> dict[str, str]:
    """One entry of a JSON object."""
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def print_json(value: object) -> None:
    """One object on one line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def message_json(message: Message) -> dict[str, Any]:
    """Every field under its name in the contract; absent messages and optionals are left out."""
    entries: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if isinstance(value, bytes):
            entries |= json_bytes(field.name, value)
        elif isinstance(value, Mapping):
            entries[field.name] = dict(value)
        elif field.is_repeated:
            entries[field.name] = [_plain(field, item) for item in value]
        else:
            entries[field.name] = _plain(field, value)
    return entries


def _plain(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return message_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return shown(value) if isinstance(value, bytes) else value


def write_raw(data: bytes) -> None:
    """Exactly these bytes on stdout; on a terminal a line break after them."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """Something beside the result."""
    print(text, file=sys.stderr, flush=True)


def human_bytes(count: float) -> str:
    """With a binary unit: 512 B, 1.5 KiB, 3.2 GiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    unit = 0
    while count >= 1024 and unit < len(units) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {units[unit]}"


@contextmanager
def byte_progress(label: str, total: int | None) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere. Its one task has the number 0."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task(label, total=total)
        yield progress
