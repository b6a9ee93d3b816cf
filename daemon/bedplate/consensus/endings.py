"""Why a member's work ends by itself, as one line that says what its operator can do.

    what ended it        what is known                               reason               exit code
    -------------------  ------------------------------------------  -------------------  ---------
    StartupError         removed                                     its own                      2
    Lost                 this disk lacks what was acknowledged       DIRECTORY_STALE              2
    Differs              one of two disks lacks what was committed   DIRECTORY_DIFFERS            2
    other Contradiction  somebody forgot a vote: who is not known    CONTRADICTION                1

A stale directory is marked, and never served again: as soon as another one leads, nobody could tell
any more that it forgot what it had acknowledged, or for whom it had voted.
"""

from collections.abc import Iterator
from typing import Final

from bedplate.consensus.ready import Contradiction, Differs, Lost
from bedplate.errors import BedplateError, Code, StartupError

STALE: Final = "DIRECTORY_STALE"


def ending(error: BaseException, directory: object, address: str) -> BaseException:
    """What to raise for `error`, which may be a group, in the daemon of this data directory."""
    parts = list(_parts(error))
    known = [part for part in parts if isinstance(part, BedplateError | Contradiction)]
    first = known[0] if known else parts[0]
    if not isinstance(first, Contradiction):
        return first
    replace = (
        f"replace this member: on another one `bedplate cluster remove {address}`, `bedplate "
        f"cluster add {address}`, then start it with a new directory"
    )
    match first:
        case Lost():
            return StartupError(
                f"{directory} is older than what this member has acknowledged, as a copy or a "
                f"snapshot that was put back is ({first}): {replace}",
                reason=STALE,
            )
        case Differs():
            return StartupError(
                f"{directory} and the leader's directory differ in what was committed: one of the "
                f"two is an older copy that was put back ({first}). If it is this one, {replace}. "
                "If it may be the leader's, keep this one: it has what the others lost",
                reason="DIRECTORY_DIFFERS",
            )
    return BedplateError(
        f"this member stops: {first}, which cannot be if no member ever lost what it had on disk",
        code=Code.INTERNAL,
        reason="CONTRADICTION",
    )


def _parts(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for part in error.exceptions:
        yield from _parts(part)
