"""CRC-32C of a whole from the CRCs of its parts, without reading the data again.

A CRC is a remainder of polynomials over GF(2) modulo P, reflected: bit 31 is x^0. The CRC of A|B is
crc(A) * x^(8 * len(B)) + crc(B) mod P: shifting A past B's bytes, then adding (zlib's
crc32_combine).
"""

from collections.abc import Iterable
from functools import lru_cache

from bedplate.native.store import crc32c

__all__ = ["combine", "crc32c"]

_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31  # x^0


def combine(parts: Iterable[tuple[int, int]]) -> int:
    """CRC-32C of concatenated parts, each given as (crc, size in bytes)."""
    whole = 0
    for crc, size in parts:
        whole = _multiply(_shift(size), whole) ^ crc
    return whole


@lru_cache(maxsize=1024)
def _shift(size: int) -> int:
    """x^(8 * size) mod P, by squaring."""
    power, square = _ONE, 1 << 23  # x^8
    while size:
        if size & 1:
            power = _multiply(square, power)
        square = _multiply(square, square)
        size >>= 1
    return power


def _multiply(a: int, b: int) -> int:
    """a * b mod P."""
    product = 0
    bit = _ONE
    while bit:
        if a & bit:
            product ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
        bit >>= 1
    return product
