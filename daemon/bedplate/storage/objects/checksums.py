"""CRC-32C of a whole from the CRCs of its parts, without reading the data again.

A CRC is a remainder of polynomials over GF(2) modulo P, reflected: bit 31 is x^0. The CRC of A|B is
crc(A) * x^(8 * len(B)) + crc(B) mod P: shifting A past B's bytes, then adding (zlib's
crc32_combine).
"""

from collections.abc import Iterable
from functools import cache, lru_cache

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
    """x^(8 * size) mod P, out of the powers for each bit of the size."""
    shift = _ONE
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            shift = _multiply(_power(bit), shift)
    return shift


@cache
def _power(bit: int) -> int:
    """x^(8 * 2^bit) mod P."""
    if bit == 0:
        return 1 << 23
    half = _power(bit - 1)
    return _multiply(half, half)


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
