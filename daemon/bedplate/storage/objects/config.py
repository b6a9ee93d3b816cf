"""Configuration of the object store: section `objects`."""

from pydantic import ByteSize, Field

from bedplate.storage.config import MIB, Section

TIB = 1 << 40


class ObjectsConfig(Section):
    """Objects."""

    key_bytes_max: int = Field(default=1024, ge=1, le=3072, description="Bytes in an object key.")
    metadata_bytes_max: int = Field(
        default=8192,
        ge=0,
        le=65_535,
        description="Bytes of user metadata of one object, keys and values together.",
    )
    size_max: ByteSize = Field(
        default=ByteSize(5 * TIB), ge=MIB, le=1024 * TIB, description="Bytes in an object."
    )
    part_size_min: ByteSize = Field(
        default=ByteSize(5 * MIB),
        ge=1,
        description="Bytes in every part of a multipart upload but the last.",
    )
    upload_idle_max: int = Field(
        default=86_400,
        ge=1,
        le=86_400 * 366,
        description="Seconds without data after which an unfinished upload is removed.",
    )
    read_pin_max: int = Field(
        default=3600,
        ge=1,
        le=86_400,
        description="Seconds for which a download keeps a replaced or deleted object's data.",
    )
