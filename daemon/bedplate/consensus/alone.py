"""Whether a store that is a cluster of its own may serve, when its configuration names others.

A member's configuration on a directory that was restored, rebuilt or recovered, or is a copy from
before there was a cluster, would serve its own history at the address of a member: clients of the
cluster would read and write there, and nobody would notice.

    what the others say                       what follows
    ----------------------------------------  ----------------------------------
    one belongs to a cluster                  OTHER_CLUSTER, it does not serve
    all answer, and belong to none yet        it serves
    some do not answer within `wait_s`        PEERS_SILENT, it does not serve
"""

import asyncio
from collections.abc import Sequence

from bedplate.consensus.identity import Contacts
from bedplate.errors import StartupError

_PAUSE_S = 0.2


async def check_alone(own: str, others: Sequence[str], asked: Contacts, *, wait_s: float) -> None:
    """Raises StartupError: OTHER_CLUSTER, PEERS_SILENT. `own`: the address of who asks."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while True:
        answers = await asyncio.gather(*(asked.identify(other) for other in others))
        for other, answer in zip(others, answers, strict=True):
            if answer is not None and answer.established:
                raise _refusal(own, f"{other} belongs to a cluster", "OTHER_CLUSTER")
        silent = [other for other, a in zip(others, answers, strict=True) if a is None]
        if not silent:
            return
        if loop.time() >= until:
            raise _refusal(own, f"{', '.join(silent)} did not answer", "PEERS_SILENT")
        await asyncio.sleep(_PAUSE_S)


def _refusal(own: str, why: str, reason: str) -> StartupError:
    return StartupError(
        "this directory is a cluster of its own, restored, rebuilt or recovered, but "
        f"cluster.peers or cluster.join names others, and {why}. If {own} is to be a member there, "
        f"replace it: on another member, `bedplate cluster remove {own}` and `bedplate cluster add "
        f"{own}`, then start it with a new directory. To serve this directory alone, take "
        "cluster.peers and cluster.join out of its configuration",
        reason=reason,
    )
