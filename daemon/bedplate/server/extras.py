"""The optional parts of the distribution, and which of them are not installed."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

# An extra of pyproject.toml by the modules it brings.
EXTRAS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "inference": ("numpy", "safetensors", "tokenizers", "torch"),
        "ingest": ("confluent_kafka", "psycopg"),
        "jobs": ("psycopg",),
        "kubernetes": ("kubernetes",),
    }
)


@cache
def missing_extras() -> tuple[str, ...]:
    """Sorted; found out once a process, without importing any of them."""
    return tuple(
        extra
        for extra, modules in sorted(EXTRAS.items())
        if any(find_spec(module) is None for module in modules)
    )
