"""`bedplate kv lease`: keys that go away by themselves."""

import time
from collections.abc import Iterator
from typing import Annotated

import typer

from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.cli.connection import connected, settings_of
from bedplate.cli.errors import CommandError
from bedplate.cli.numbers import INT64_MAX, UINT64_MAX
from bedplate.cli.output import message_json, print_json, shown

app = typer.Typer(name="lease", no_args_is_help=True, help="Leases: keys put under one go with it.")

Lease = Annotated[int, typer.Argument(min=1, max=UINT64_MAX, help="The lease's id.")]


@app.command()
def grant(
    context: typer.Context,
    seconds: Annotated[int, typer.Argument(max=INT64_MAX, help="Seconds to live.")],
) -> None:
    """Make a lease and print its id."""
    with connected(context) as client:
        reply = client.call(client.kv.GrantLease, pb.GrantLeaseRequest(ttl_seconds=seconds))
    if settings_of(context).as_json:
        print_json(message_json(reply))
    else:
        print(reply.lease_id)


@app.command()
def revoke(context: typer.Context, lease: Lease) -> None:
    """End a lease now and delete its keys."""
    with connected(context) as client:
        reply = client.call(client.kv.RevokeLease, pb.RevokeLeaseRequest(lease_id=lease))
    if settings_of(context).as_json:
        print_json(message_json(reply))
    else:
        print(f"deleted {reply.deleted}, revision {reply.revision}")


@app.command()
def show(context: typer.Context, lease: Lease) -> None:
    """Print a lease's remaining time and its keys."""
    request = pb.GetLeaseRequest(lease_id=lease, with_keys=True)
    with connected(context) as client:
        reply = client.call(client.kv.GetLease, request)
    if settings_of(context).as_json:
        print_json(message_json(reply))
        return
    print(f"{reply.remaining_ms / 1000:.1f} s of {reply.ttl_seconds} s, {reply.key_count} keys")
    for key in reply.keys:
        print(shown(key))


@app.command()
def keepalive(
    context: typer.Context,
    lease: Lease,
    once: Annotated[bool, typer.Option("--once", help="Renew it once and return.")] = False,
) -> None:
    """Renew a lease, three times in each of its lifetimes, until interrupted."""
    ttl_s = 0

    def requests() -> Iterator[pb.KeepAliveRequest]:
        while True:
            yield pb.KeepAliveRequest(lease_id=lease)
            if once:
                return
            time.sleep(max(ttl_s, 1) / 3)  # ttl_s: of the answer before

    with connected(context) as client:
        for reply in client.stream(client.kv.KeepAlive, requests()):
            if reply.ttl_seconds == 0:
                raise CommandError(f"LEASE_NOT_FOUND: there is no lease {lease}")
            if ttl_s == 0 and not settings_of(context).as_json:
                print(f"renewed for {reply.ttl_seconds} s", flush=True)
            elif settings_of(context).as_json:
                print_json(message_json(reply))
            ttl_s = reply.ttl_seconds
