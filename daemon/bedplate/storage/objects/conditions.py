"""if_match and if_none_match: pure."""

from bedplate.api.object.v1 import object_pb2
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.records import ObjectRecord

ANY = "*"


def check(
    conditions: object_pb2.Conditions, current: ObjectRecord | None, path: str = "conditions"
) -> None:
    """Raise CONDITION_FAILED unless all hold for the object as it is (None: there is none)."""
    wanted, unwanted = conditions.if_match, conditions.if_none_match
    etag = current.etag.hex() if current is not None else None
    if wanted and (etag is None or wanted not in (ANY, etag)):
        there = "there is none" if etag is None else f"it has {etag}"
        raise ObjectError(
            Reason.CONDITION_FAILED,
            f"the object must have the etag {wanted}; {there}",
            path + ".if_match",
        )
    if unwanted and etag is not None and unwanted in (ANY, etag):
        raise ObjectError(
            Reason.CONDITION_FAILED,
            f"the object must not exist with the etag {unwanted}; it has {etag}",
            path + ".if_none_match",
        )


def any_set(conditions: object_pb2.Conditions) -> bool:
    return bool(conditions.if_match or conditions.if_none_match)
