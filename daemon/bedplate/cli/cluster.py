"""`bedplate cluster`: several daemons as one, from a local trial to the repair of a disaster."""

from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.message import Message

from bedplate.address import Address, parse_address
from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.cli import admin, offline
from bedplate.cli.cluster_up import down, up
from bedplate.cli.connection import Client, connected, settings_of
from bedplate.cli.errors import CommandError
from bedplate.cli.output import message_json, print_json

app = typer.Typer(name="cluster", no_args_is_help=True, help="Several daemons as one.")

_KINDS = {pb.MEMBER_KIND_VOTER: "voter", pb.MEMBER_KIND_LEARNER: "learner"}
MemberArgument = Annotated[
    str, typer.Argument(metavar="MEMBER", help="Its id, its name or its HOST:PORT.")
]


@app.command()
def status(context: typer.Context) -> None:
    """Show the members, who leads, and how far each is."""
    with connected(context) as client:
        cluster = client.call(client.cluster.GetCluster, pb.GetClusterRequest())
    if settings_of(context).as_json:
        print_json(_json(cluster))
        return
    leader = f"{cluster.leader_id:016x}" if cluster.leader_id else "none"
    print(f"cluster {cluster.cluster_id}, leader {leader}, term {cluster.term}")
    print(
        f"as {_id(cluster.member_id)} sees it: committed through {cluster.commit_index}, applied "
        f"through {cluster.applied_index}"
    )
    rows = [("MEMBER", "NAME", "ADDRESS", "KIND", "STATE", "MATCH")]
    rows += [
        (
            _id(member.member_id),
            member.name or "-",
            member.address,
            _KINDS.get(member.kind, "?"),
            _state(member),
            str(member.match_index) if member.match_index else "-",
        )
        for member in cluster.members
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


@app.command()
def add(
    context: typer.Context,
    member: Annotated[
        str,
        typer.Argument(
            metavar="[NAME=]HOST:PORT", help="Where the new member will answer, and its name."
        ),
    ],
) -> None:
    """Make room for a new member, as a learner. Start its daemon afterwards, with cluster.join."""
    name, _, address = member.rpartition("=")
    with connected(context) as client:
        request = pb.AddMemberRequest(name=name, address=address)
        added = client.call(client.cluster.AddMember, request).member
    if settings_of(context).as_json:
        print_json(_json(added))
        return
    print(f"added {_id(added.member_id)} at {added.address} as a {_KINDS.get(added.kind, '?')}")
    server, at = settings_of(context).server, parse_address(added.address)
    # Beside others on one machine it cannot have the port that is everybody's default.
    http = f"--http {Address(at.host, 0)} " if at.is_loopback else ""
    print(
        f"start it on a new data directory: bedplated --data-dir DIR --grpc {added.address} {http}"
        f"--set cluster.join={server}\n"
        "and with cluster.token_file, cluster.ca, tls.cert and tls.key where the others have them\n"
        f"when it has caught up: bedplate cluster promote {added.name or added.address}"
    )


@app.command()
def promote(context: typer.Context, member: MemberArgument) -> None:
    """Give a learner that has caught up a vote."""
    with connected(context) as client:
        request = pb.PromoteMemberRequest(member_id=_find(client, member))
        promoted = client.call(client.cluster.PromoteMember, request).member
    _report(context, promoted, f"{_id(promoted.member_id)} is a voter")


@app.command()
def remove(context: typer.Context, member: MemberArgument) -> None:
    """Take a member out for good; its daemon stops. Its id is never used again."""
    with connected(context) as client:
        found = _find(client, member)
        client.call(client.cluster.RemoveMember, pb.RemoveMemberRequest(member_id=found))
    _report(context, pb.Member(member_id=found), f"removed {_id(found)}")


@app.command()
def transfer(
    context: typer.Context,
    member: Annotated[
        str, typer.Argument(metavar="[MEMBER]", help="Who shall lead; else whoever is furthest.")
    ] = "",
) -> None:
    """Hand leadership to another voter."""
    with connected(context) as client:
        target = _find(client, member) if member else 0
        request = pb.TransferLeadershipRequest(member_id=target)
        leader = client.call(client.cluster.TransferLeadership, request).leader_id
    _report(context, pb.Member(member_id=leader, leader=True), f"{_id(leader)} leads")


@app.command()
def recover(
    data_dir: Annotated[
        Path,
        typer.Option("--data-dir", metavar="DIR", help="The survivor's, of a stopped daemon."),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it: writes that only others had are lost.")
    ] = False,
) -> None:
    """After a disaster: make one survivor's directory a cluster of its own, under a new cluster id.

    Only when a majority is gone for good. Everything this directory holds counts as committed, also
    what never was; what only the others had is lost. No other member can ever come back: wipe them,
    and add them anew.
    """
    offline.recover(data_dir, yes=yes)


app.command()(up)
app.command()(down)
app.command(name="backup")(admin.backup)
app.command(name="restore")(offline.restore)


def _find(client: Client, text: str) -> int:
    """The member that the text names. Raises CommandError."""
    cluster = client.call(client.cluster.GetCluster, pb.GetClusterRequest())
    found = [
        member.member_id
        for member in cluster.members
        if text in (_id(member.member_id), member.name, member.address)
    ]
    if len(found) != 1:
        known = ", ".join(
            f"{_id(m.member_id)}{m.name and f', {m.name},'} at {m.address}" for m in cluster.members
        )
        raise CommandError(f'"{text}" names {len(found)} members; there are {known}')
    return found[0]


def _report(context: typer.Context, member: pb.Member, line: str) -> None:
    if settings_of(context).as_json:
        print_json(_json(member))
    else:
        print(line)


def _json(message: Message) -> dict[str, Any]:
    """As the contract has it, but for ids: 64 bits, which not every JSON reader keeps as numbers,
    are written as everywhere else, and can be given to all of these commands.
    """
    return {name: _as_shown(name, value) for name, value in message_json(message).items()}


def _as_shown(name: str, value: Any) -> Any:
    if name in ("member_id", "leader_id"):
        return _id(value)
    if name == "members":
        return [{key: _as_shown(key, part) for key, part in member.items()} for member in value]
    return value


def _id(member: int) -> str:
    return f"{member:016x}"


def _state(member: pb.Member) -> str:
    if member.quarantined:
        return "quarantined"
    if member.leader:
        return "leader"
    return "up" if member.reachable else "unreachable"
