"""Trees of files as objects under a prefix, and back: names are kept exactly, or refused.

    DIR/a/b.txt  <-->  object://bucket/prefix/a/b.txt

What a name may do is checked for the whole tree before the first byte moves.
"""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.cli.connection import Client
from bedplate.cli.errors import CommandError
from bedplate.cli.output import byte_progress, note
from bedplate.cli.transfer import Download, upload, whole_file
from bedplate.cli.uris import Place, is_utf8

_NO_NAMES = ("", ".", "..")


def listing(client: Client, place: Place, delimiter: str) -> Iterator[pb.ObjectInfo | str]:
    """Objects and common prefixes of every page, ordered bytewise. Raises grpc.RpcError."""
    request = pb.ListObjectsRequest(bucket=place.bucket, prefix=place.key, delimiter=delimiter)
    while True:
        page = client.call(client.objects.ListObjects, request)
        entries: list[pb.ObjectInfo | str] = [*page.objects, *page.common_prefixes]
        yield from sorted(entries, key=lambda e: (e if isinstance(e, str) else e.key).encode())
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def put_tree(client: Client, root: Path, header: pb.PutObjectHeader) -> Iterator[pb.ObjectInfo]:
    """Store every file below `root` under the header's key, as it says; each as it is stored.
    Raises grpc.RpcError, OSError, CommandError.
    """
    if not root.is_dir():
        raise CommandError(f"{root} is not a directory")
    files = {path.relative_to(root).as_posix(): path for path in _files(root)}
    if not all(map(is_utf8, files)):
        raise CommandError("names of buckets and objects are UTF-8")
    total = sum(path.stat().st_size for path in files.values())
    prefix = _prefix(header.key)
    with byte_progress(str(root), total) as progress:
        for name, path in files.items():
            with path.open("rb") as source:
                header.key, header.size = prefix + name, path.stat().st_size
                yield upload(
                    client, header, source, lambda n: progress.advance(progress.task_ids[0], n)
                )


def get_tree(client: Client, place: Place, root: Path) -> int:
    """Fetch every object under the place into files below `root`; how many. Raises grpc.RpcError,
    OSError, and CommandError for a key that is no path below `root`.
    """
    place = Place(place.bucket, _prefix(place.key))
    entries = listing(client, place, "")
    objects = [entry for entry in entries if isinstance(entry, pb.ObjectInfo)]
    names = [info.key.removeprefix(place.key) for info in objects]
    _check_names(names)
    total = sum(info.size for info in objects)
    with byte_progress(str(place), total) as progress:
        for info, name in zip(objects, names, strict=True):
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(root.resolve()):
                raise CommandError(f"{target.parent} leads out of {root}")
            request = pb.GetObjectRequest(bucket=place.bucket, key=info.key)
            with whole_file(target) as file:
                Download(client, request).write_to(
                    file, lambda n: progress.advance(progress.task_ids[0], n)
                )
    return len(objects)


def _prefix(key: str) -> str:
    return f"{key}/" if key and not key.endswith("/") else key


def _files(root: Path) -> Iterator[Path]:
    """Regular files, and links to some, in the order of their names; a note on whatever else."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.is_file():
            yield path
        else:
            note(f"left out, neither a file nor a directory: {os.fsencode(path)!r}")


def _check_names(names: list[str]) -> None:
    """Raises CommandError when a name is no path of a file, or also that of a directory."""
    for name in names:
        if any(part in _NO_NAMES for part in name.split("/")):
            raise CommandError(f'the key "{name}" is no path of a file; fetch it by its name')
    paths = sorted(name.split("/") for name in names)
    for shorter, longer in pairwise(paths):
        if longer[: len(shorter)] == shorter:
            path = "/".join(shorter)
            raise CommandError(f'"{path}" is an object and a directory; a file cannot be both')
