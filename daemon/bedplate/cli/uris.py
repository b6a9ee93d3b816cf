"""object://bucket/key, as commands take it."""

from dataclasses import dataclass

from bedplate.cli.errors import NotUnderstood

SCHEME = "object://"


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, and a key or prefix in it; "" is all of the bucket."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


def parse_place(text: str) -> Place:
    """A bucket with or without a key. Raises NotUnderstood."""
    bucket, _, key = text.removeprefix(SCHEME).partition("/")
    if not text.startswith(SCHEME) or not bucket:
        raise NotUnderstood(f'expected {SCHEME}BUCKET/KEY, not "{text}"')
    if not is_utf8(text):
        raise NotUnderstood("names of buckets and objects are UTF-8")
    return Place(bucket, key)


def parse_object(text: str) -> Place:
    """A bucket and a key. Raises NotUnderstood."""
    place = parse_place(text)
    if not place.key:
        raise NotUnderstood(f'"{text}" names no object: expected {SCHEME}BUCKET/KEY')
    return place


def parse_bucket(text: str) -> str:
    """A bucket, with the scheme or without. Raises NotUnderstood."""
    place = parse_place(text if text.startswith(SCHEME) else SCHEME + text)
    if place.key:
        raise NotUnderstood(f'"{text}" names more than a bucket')
    return place.bucket


def target_of(uri: str, source: str) -> Place:
    """A place that ends with a slash, or is a bucket alone, takes the source's last part. Raises
    NotUnderstood.
    """
    place = parse_place(uri)
    if place.key and not place.key.endswith("/"):
        return place
    return Place(place.bucket, place.key + file_name(source))


def file_name(path: str) -> str:
    """The last part of a path or key. Raises NotUnderstood when it names nothing."""
    name = path.rpartition("/")[2]
    if name in ("", "-", ".", ".."):
        raise NotUnderstood(f'"{path}" does not give a name: say the whole target')
    return name


def is_utf8(text: str) -> bool:
    """Whether it has no bytes of a command line or file name that are not."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
