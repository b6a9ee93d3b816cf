"""What may be a name, and what may be said about an object: checks of client input.

Every check raises ObjectError with the field's proto path.
"""

from collections.abc import Mapping

from bedplate.storage.objects.config import ObjectsConfig
from bedplate.storage.objects.errors import ObjectError, Reason
from bedplate.storage.objects.keys import BLOB_SIZE, Name

BUCKET_BYTES_MAX = 255
CONTENT_TYPE_BYTES_MAX = 255
DELIMITER_BYTES_MAX = 1024
PAGE_MAX = 1000
PARTS_MAX = 10_000
DEFAULT_CONTENT_TYPE = "application/octet-stream"


def bucket_name(text: str, field: str = "bucket") -> bytes:
    """The name as it is stored. NAME_INVALID."""
    name = text.encode()
    if not 1 <= len(name) <= BUCKET_BYTES_MAX:
        raise ObjectError(
            Reason.NAME_INVALID,
            f"a bucket name has 1 to {BUCKET_BYTES_MAX} bytes, not {len(name)}",
            field,
        )
    if b"\0" in name or b"/" in name:
        raise ObjectError(Reason.NAME_INVALID, "a bucket name holds no NUL and no '/'", field)
    return name


def object_key(text: str, config: ObjectsConfig, field: str = "key") -> bytes:
    """The key as it is stored. NAME_INVALID."""
    key = text.encode()
    if not 1 <= len(key) <= config.key_bytes_max:
        raise ObjectError(
            Reason.NAME_INVALID,
            f"an object key has 1 to {config.key_bytes_max} bytes, not {len(key)}",
            field,
        )
    if b"\0" in key:
        raise ObjectError(Reason.NAME_INVALID, "an object key holds no NUL", field)
    return key


def object_name(bucket: str, key: str, config: ObjectsConfig, path: str = "") -> Name:
    """Both parts of an object's name. NAME_INVALID."""
    return Name(bucket_name(bucket, path + "bucket"), object_key(key, config, path + "key"))


def content_type(text: str, path: str = "") -> str:
    """The media type, or its default. FIELD_INVALID."""
    if len(text.encode()) > CONTENT_TYPE_BYTES_MAX:
        raise ObjectError(
            Reason.FIELD_INVALID,
            f"a content type has at most {CONTENT_TYPE_BYTES_MAX} bytes",
            path + "content_type",
        )
    return text or DEFAULT_CONTENT_TYPE


def user_metadata(
    pairs: Mapping[str, str], config: ObjectsConfig, path: str = ""
) -> dict[str, str]:
    """The metadata, ordered by key. METADATA_TOO_LARGE; FIELD_INVALID for an empty key."""
    field = path + "user_metadata"
    size = sum(len(key.encode()) + len(value.encode()) for key, value in pairs.items())
    if size > config.metadata_bytes_max:
        raise ObjectError(
            Reason.METADATA_TOO_LARGE,
            f"user metadata has {size} bytes; the most is {config.metadata_bytes_max}",
            field,
        )
    if "" in pairs:
        raise ObjectError(Reason.FIELD_INVALID, "a metadata key is empty", field)
    return dict(sorted(pairs.items()))


def page_size(asked: int) -> int:
    """Entries on a page. FIELD_INVALID."""
    if asked > PAGE_MAX:
        raise ObjectError(
            Reason.FIELD_INVALID, f"a page has at most {PAGE_MAX} entries", "page_size"
        )
    return asked or PAGE_MAX


def name_part(text: str, bytes_max: int, field: str) -> bytes:
    """A prefix, start or delimiter of a listing. FIELD_INVALID."""
    part = text.encode()
    if len(part) > bytes_max:
        raise ObjectError(Reason.FIELD_INVALID, f"{field} has at most {bytes_max} bytes", field)
    return part


def part_number(number: int, path: str = "") -> int:
    """FIELD_INVALID."""
    if not 1 <= number <= PARTS_MAX:
        raise ObjectError(
            Reason.FIELD_INVALID, f"parts are numbered 1 to {PARTS_MAX}", path + "part_number"
        )
    return number


def upload_blob(upload_id: str) -> bytes:
    """The blob that an upload id names. UPLOAD_NOT_FOUND for what cannot be one."""
    try:
        blob = bytes.fromhex(upload_id)
    except ValueError:
        blob = b""
    if len(blob) != BLOB_SIZE or blob.hex() != upload_id:
        raise upload_not_found()
    return blob


def upload_not_found() -> ObjectError:
    return ObjectError(
        Reason.UPLOAD_NOT_FOUND,
        "there is no such upload of this object; it was completed, aborted or never there",
        "upload_id",
    )
