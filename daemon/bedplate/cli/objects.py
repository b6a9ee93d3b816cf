"""`bedplate object`: buckets and objects, named object://bucket/key."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.cli.connection import Client, connected, settings_of
from bedplate.cli.errors import CommandError, NotUnderstood
from bedplate.cli.numbers import UINT64_MAX
from bedplate.cli.object_tree import get_tree, listing, put_tree
from bedplate.cli.output import byte_progress, human_bytes, message_json, print_json, shown
from bedplate.cli.transfer import Download, upload, whole_file
from bedplate.cli.uris import (
    Place,
    file_name,
    parse_bucket,
    parse_object,
    parse_place,
    target_of,
)

app = typer.Typer(name="object", no_args_is_help=True, help="Buckets and objects.")

_DELETE_MAX = 1000  # objects of one DeleteObjects

Bucket = Annotated[str, typer.Argument(help="The bucket, with or without object://.")]
URI = Annotated[str, typer.Argument(help="object://bucket/key")]
IfMatch = Annotated[str, typer.Option(help='Only if the object has this etag; "*": if it exists.')]
IfNoneMatch = Annotated[
    str, typer.Option(help='Only if the object has not this etag; "*": if it does not exist.')
]


@app.command("mb")
def make_bucket(context: typer.Context, bucket: Bucket) -> None:
    """Make a bucket."""
    request = pb.CreateBucketRequest(bucket=parse_bucket(bucket))
    with connected(context) as client:
        client.call(client.objects.CreateBucket, request)


@app.command("rb")
def remove_bucket(context: typer.Context, bucket: Bucket) -> None:
    """Remove an empty bucket."""
    request = pb.DeleteBucketRequest(bucket=parse_bucket(bucket))
    with connected(context) as client:
        client.call(client.objects.DeleteBucket, request)


@app.command("ls")
def list_objects(
    context: typer.Context,
    uri: Annotated[
        str, typer.Argument(help="object://bucket/prefix; nothing lists the buckets.")
    ] = "",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Do not fold keys at slashes.")
    ] = False,
) -> None:
    """List buckets, or the objects of one: size, time of change and key."""
    as_json = settings_of(context).as_json
    with connected(context) as client:
        if not uri:
            for bucket in _buckets(client):
                if as_json:
                    print_json(message_json(bucket))
                else:
                    print(shown_name(bucket.bucket))
            return
        for entry in listing(client, parse_place(uri), "" if recursive else "/"):
            if as_json:
                print_json(
                    {"common_prefix": entry} if isinstance(entry, str) else message_json(entry)
                )
            else:
                print(_listing_line(entry))


@app.command("put")
def put_object(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="The file, or the directory with -r; - is stdin.")],
    uri: Annotated[
        str, typer.Argument(help="object://bucket/key; the file's name is added behind a slash.")
    ],
    content_type: Annotated[str, typer.Option(help="The media type.")] = "",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="User metadata; may be repeated.")
    ] = None,
    if_match: IfMatch = "",
    if_none_match: IfNoneMatch = "",
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-r", help="Every file below a directory, under uri/."),
    ] = False,
) -> None:
    """Store a file as an object, which appears complete or not at all, or a tree of files."""
    place = parse_place(uri) if recursive else target_of(uri, file)
    header = pb.PutObjectHeader(
        bucket=place.bucket,
        key=place.key,
        content_type=content_type,
        user_metadata=dict(_metadata(metadata or [])),
        conditions=pb.Conditions(if_match=if_match, if_none_match=if_none_match),
    )
    if recursive:
        if if_match:
            raise NotUnderstood("--recursive and --if-match exclude each other")
        with connected(context) as client:
            for info in put_tree(client, Path(file), header):
                _print_stored(context, info)
        return
    if file == "-":
        info = _upload(context, header, sys.stdin.buffer, None)
    else:
        path = Path(file)
        with path.open("rb") as source:
            header.size = path.stat().st_size
            info = _upload(context, header, source, header.size)
    _print_stored(context, info)


@app.command("get")
def get_object(
    context: typer.Context,
    uri: URI,
    file: Annotated[
        str,
        typer.Argument(
            help="Where to; - is stdout. Default: the key's last part, here; with -r: here."
        ),
    ] = "",
    offset: Annotated[int, typer.Option(min=0, max=UINT64_MAX, help="Begin at this byte.")] = 0,
    length: Annotated[
        int, typer.Option(min=0, max=UINT64_MAX, help="So many bytes; 0: to the end.")
    ] = 0,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Every object under uri/, as a tree of files.")
    ] = False,
) -> None:
    """Fetch an object, a range of it, or a tree. Every byte is checked; a file appears only
    complete.
    """
    if recursive:
        if offset or length or file == "-":
            raise NotUnderstood("--recursive goes with neither a range nor stdout")
        with connected(context) as client:
            count = get_tree(client, parse_place(uri), Path(file or "."))
        print(f"fetched {count}", file=sys.stderr)
        return
    place = parse_object(uri)
    span = pb.ByteRange(offset=offset, length=length) if offset or length else None
    request = pb.GetObjectRequest(bucket=place.bucket, key=place.key, range=span)
    with connected(context) as client:
        download = Download(client, request)
        with byte_progress(place.key, download.header.length) as progress:

            def advance(count: int) -> None:
                progress.advance(progress.task_ids[0], count)

            if file == "-":
                download.write_to(sys.stdout.buffer, advance)
                sys.stdout.buffer.flush()
            else:
                with whole_file(Path(file or file_name(place.key))) as target:
                    download.write_to(target, advance)


@app.command("head")
def head_object(context: typer.Context, uri: URI) -> None:
    """Print what is known of an object."""
    place = parse_object(uri)
    request = pb.HeadObjectRequest(bucket=place.bucket, key=place.key)
    with connected(context) as client:
        info = client.call(client.objects.HeadObject, request).info
    if settings_of(context).as_json:
        print_json(message_json(info))
        return
    for name, value in message_json(info).items():
        print(f"{name:15} {f'{value:08x}' if name == 'crc32c' else value}")


@app.command("rm")
def remove_object(
    context: typer.Context,
    uri: URI,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Every object whose key begins so.")
    ] = False,
    if_match: IfMatch = "",
) -> None:
    """Delete an object, or all under a prefix. Deleting what is not there is no error."""
    if recursive and if_match:
        raise NotUnderstood("--recursive and --if-match exclude each other")
    with connected(context) as client:
        if recursive:
            deleted = _remove_all(client, parse_place(uri))
        else:
            place = parse_object(uri)
            request = pb.DeleteObjectRequest(
                bucket=place.bucket, key=place.key, conditions=pb.Conditions(if_match=if_match)
            )
            deleted = int(client.call(client.objects.DeleteObject, request).deleted)
    if settings_of(context).as_json:
        print_json({"deleted": deleted})
    else:
        print(f"deleted {deleted}")


@app.command("cp")
def copy_object(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="object://bucket/key")],
    target: Annotated[str, typer.Argument(help="object://bucket/key")],
) -> None:
    """Copy an object inside the daemon, in constant time: the data is shared."""
    origin, goal = parse_object(source), target_of(target, source)
    request = pb.CopyObjectRequest(
        source_bucket=origin.bucket,
        source_key=origin.key,
        bucket=goal.bucket,
        key=goal.key,
    )
    with connected(context) as client:
        info = client.call(client.objects.CopyObject, request).info
    _print_stored(context, info)


def shown_name(name: str) -> str:
    """A name on one line."""
    return shown(name.encode())


def _upload(
    context: typer.Context, header: pb.PutObjectHeader, source: BinaryIO, size: int | None
) -> pb.ObjectInfo:
    with connected(context) as client, byte_progress(header.key, size) as progress:
        task = progress.task_ids[0]
        return upload(client, header, source, lambda count: progress.advance(task, count))


def _print_stored(context: typer.Context, info: pb.ObjectInfo) -> None:
    if settings_of(context).as_json:
        print_json(message_json(info))
    else:
        print(
            f"{shown_name(str(Place(info.bucket, info.key)))}  {info.size} bytes  etag {info.etag}"
        )


def _buckets(client: Client) -> Iterator[pb.BucketInfo]:
    request = pb.ListBucketsRequest()
    while True:
        page = client.call(client.objects.ListBuckets, request)
        yield from page.buckets
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _remove_all(client: Client, place: Place) -> int:
    deleted = 0
    keys = (entry.key for entry in listing(client, place, "") if isinstance(entry, pb.ObjectInfo))
    while some := list(islice(keys, _DELETE_MAX)):
        objects = [pb.ObjectToDelete(key=key) for key in some]
        request = pb.DeleteObjectsRequest(bucket=place.bucket, objects=objects)
        for result in client.call(client.objects.DeleteObjects, request).results:
            if result.HasField("error"):
                where = Place(place.bucket, result.key)
                raise CommandError(f"{result.error.reason}: {where}: {result.error.message}")
            deleted += result.deleted
    return deleted


def _metadata(pairs: list[str]) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise NotUnderstood(f"--metadata {pair}: expected KEY=VALUE")
        yield key, value


def _listing_line(entry: pb.ObjectInfo | str) -> str:
    if isinstance(entry, str):
        return f"{'':>10}  {'':20}  {shown_name(entry)}"
    changed = entry.modified_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{human_bytes(entry.size):>10}  {changed:20}  {shown_name(entry.key)}"
