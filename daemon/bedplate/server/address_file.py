"""server.address_file: where a running daemon is found by scripts that let it choose its ports."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bedplate.address import Address
from bedplate.errors import StartupError


@contextmanager
def address_file(path: Path | None, grpc: Address, http: Address) -> Iterator[None]:
    """The file, complete from the moment it exists, for as long as the block lasts. Raises
    StartupError.
    """
    if path is None:
        yield
        return
    content = {"grpc": str(grpc), "http": str(http), "pid": os.getpid()}
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StartupError(
            f"cannot write server.address_file {path}: {error.strerror}", reason="ADDRESS_FILE"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
