"""`bedplate kv`: keys and values."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.cli.connection import Client, connected, settings_of
from bedplate.cli.errors import CommandError, NotUnderstood
from bedplate.cli.numbers import UINT64_MAX
from bedplate.cli.output import message_json, note, print_json, shown, write_raw

app = typer.Typer(name="kv", no_args_is_help=True, help="Keys and values.")

Key = Annotated[str, typer.Argument(help="The key, taken as bytes.")]
Revision = Annotated[
    int, typer.Option(min=0, max=UINT64_MAX, help="Read the state at this revision.")
]
Serializable = Annotated[
    bool,
    typer.Option(
        "--serializable",
        help="What the asked member has, without asking the others: it may be behind.",
    ),
]
FromFile = Annotated[
    Path | None, typer.Option("--file", help="Take the value from this file; - is stdin.")
]


@app.command()
def get(
    context: typer.Context, key: Key, revision: Revision = 0, serializable: Serializable = False
) -> None:
    """Print one value as it is, byte for byte."""
    request = pb.GetRequest(
        key=os.fsencode(key), revision=revision, consistency=_consistency(serializable)
    )
    with connected(context) as client:
        reply = client.call(client.kv.Get, request)
    if not reply.HasField("kv"):
        raise CommandError(f"no such key: {shown(os.fsencode(key))}")
    if settings_of(context).as_json:
        print_json(message_json(reply.kv))
    else:
        write_raw(reply.kv.value)


def _consistency(serializable: bool) -> pb.Consistency:
    return pb.CONSISTENCY_SERIALIZABLE if serializable else pb.CONSISTENCY_LINEARIZABLE


@app.command()
def put(
    context: typer.Context,
    key: Key,
    value: Annotated[str | None, typer.Argument(help="The value, taken as bytes.")] = None,
    file: FromFile = None,
    lease: Annotated[
        int, typer.Option(min=0, max=UINT64_MAX, help="Attach the key to this lease.")
    ] = 0,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Only if the key does not exist.")
    ] = False,
    if_revision: Annotated[
        int | None,
        typer.Option(
            min=1, max=UINT64_MAX, help="Only if the key was last written at this revision."
        ),
    ] = None,
    if_value: Annotated[str | None, typer.Option(help="Only if this is the value now.")] = None,
) -> None:
    """Store one key. With a condition: compare and set, and exit 1 when it does not hold."""
    name = os.fsencode(key)
    compares = list(_compares(name, if_absent, if_revision, if_value))
    operation = pb.PutOp(key=name, value=_value(value, file), lease_id=lease)
    request = pb.TxnRequest(compares=compares, then_ops=[pb.TxnOp(put=operation)])
    with connected(context) as client:
        reply = client.call(client.kv.Txn, request)
    if not reply.succeeded:
        raise CommandError(f"CONDITION_FAILED: {shown(name)} is not as expected; nothing changed")
    if settings_of(context).as_json:
        print_json({"revision": reply.revision})
    else:
        print(f"revision {reply.revision}")


@app.command()
def delete(
    context: typer.Context,
    key: Key,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Delete every key that begins so.")
    ] = False,
    range_end: Annotated[
        str | None, typer.Option(help="Delete every key from KEY up to, not including, this one.")
    ] = None,
) -> None:
    """Delete one key or a range, as one step. Deleting what is not there is no error."""
    if prefix and range_end is not None:
        raise NotUnderstood("--prefix and --range-end exclude each other")
    name = os.fsencode(key)
    end = prefix_end(name) if prefix else os.fsencode(range_end or "")
    with connected(context) as client:
        reply = client.call(client.kv.Delete, pb.DeleteRequest(key=name, range_end=end))
    if settings_of(context).as_json:
        print_json({"revision": reply.revision, "deleted": reply.deleted})
    else:
        print(f"deleted {reply.deleted}, revision {reply.revision}")


@app.command()
def scan(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Only keys that begin so; default all.")] = "",
    start: Annotated[str, typer.Option(help="Instead of a prefix: the first key.")] = "",
    end: Annotated[str, typer.Option(help="Instead of a prefix: the key to stop before.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most this many keys; 0: all.")] = 0,
    reverse: Annotated[bool, typer.Option("--reverse", help="From the last key down.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Without values.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only the number of keys.")] = False,
    revision: Revision = 0,
    serializable: Serializable = False,
) -> None:
    """Print keys and values in order, a tab between them; what does not print is escaped."""
    request = pb.ScanRequest(
        start=os.fsencode(start),
        end=os.fsencode(end),
        prefix=os.fsencode(prefix),
        reverse=reverse,
        keys_only=keys_only,
        count_only=count,
        revision=revision,
        consistency=_consistency(serializable),
    )
    as_json = settings_of(context).as_json
    with connected(context) as client:
        if count:
            found = sum(page.count for page in pages(client, request))
            if as_json:
                print_json({"count": found})
            else:
                print(found)
            return
        for pair in pairs(client, request, limit):
            if as_json:
                print_json(message_json(pair))
            elif keys_only:
                print(shown(pair.key))
            else:
                print(f"{shown(pair.key)}\t{shown(pair.value)}")


@app.command()
def watch(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Only keys that begin so; default all.")] = "",
    revision: Annotated[
        int,
        typer.Option(
            min=0, max=UINT64_MAX, help="Begin with the changes of this revision; 0: from now on."
        ),
    ] = 0,
    limit: Annotated[int, typer.Option(min=0, help="End after so many changes; 0: never.")] = 0,
) -> None:
    """Print every change as it happens: revision, what, key and value."""
    request = pb.WatchRequest(prefix=os.fsencode(prefix), start_revision=revision, with_values=True)
    as_json, left = settings_of(context).as_json, limit
    with connected(context) as client:
        responses = client.stream(client.kv.Watch, request)
        for response in responses:
            if response.created:
                note(f"watching from revision {response.revision + 1} on")
            for event in response.events:
                if as_json:
                    print_json(message_json(event))
                else:
                    print(_event_line(event), flush=True)
                left -= 1
                if left == 0:
                    responses.cancel()
                    return


def pages(client: Client, request: pb.ScanRequest) -> Iterator[pb.ScanResponse]:
    """Every page of a scan; all show one revision. Raises grpc.RpcError."""
    while True:
        page = client.call(client.kv.Scan, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def pairs(client: Client, request: pb.ScanRequest, limit: int = 0) -> Iterator[pb.KeyValue]:
    """The keys of a scan, at most `limit` of them; 0: all."""
    request.limit = min(limit, 1000)
    left = limit
    for page in pages(client, request):
        for pair in page.kvs:
            yield pair
            left -= 1
            if left == 0:
                return


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`; the byte 0 when nothing comes after."""
    bare = prefix.rstrip(b"\xff")
    return bare[:-1] + bytes([bare[-1] + 1]) if bare else b"\0"


def _value(text: str | None, file: Path | None) -> bytes:
    if (text is None) == (file is None):
        raise NotUnderstood("give the value either as an argument or with --file")
    if text is not None:
        return os.fsencode(text)
    assert file is not None
    return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()


def _compares(
    key: bytes, if_absent: bool, if_revision: int | None, if_value: str | None
) -> Iterator[pb.Compare]:
    equal = pb.COMPARE_OPERATOR_EQUAL
    if if_absent:
        yield pb.Compare(key=key, operator=equal, version=0)
    if if_revision is not None:
        yield pb.Compare(key=key, operator=equal, mod_revision=if_revision)
    if if_value is not None:
        yield pb.Compare(key=key, operator=equal, value=os.fsencode(if_value))


def _event_line(event: pb.Event) -> str:
    pair = event.kv
    if event.type == pb.EVENT_TYPE_DELETE:
        return f"{pair.mod_revision}\tdelete\t{shown(pair.key)}"
    return f"{pair.mod_revision}\tput\t{shown(pair.key)}\t{shown(pair.value)}"
