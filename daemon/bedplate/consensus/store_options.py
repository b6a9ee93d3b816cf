"""How a store is opened for an identity."""

from dataclasses import replace

from bedplate.consensus.identity import Identity
from bedplate.native.options import Options


def store_options(options: Options, identity: Identity | None) -> Options:
    """How to open the store of an identity that was decided; None: the store knows, or is alone."""
    if identity is None:
        return options
    return replace(
        options,
        clustered=1,
        joining=int(not identity.voters),
        cluster_id=identity.cluster_id,
        member_id=identity.member_id,
        n_members=len(identity.voters),
        members=tuple(sorted(identity.voters)),
    )
