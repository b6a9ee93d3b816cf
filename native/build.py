"""The cffi module `bedplate._native`: what include/bedplate.h marks, linked with the library.

setup.py names `ffibuilder` as its cffi module and has make build libbedplate.a first. What stands
between a line `/* cffi: begin */` and the next `/* cffi: end */` of the header is given to cffi,
which knows plain declarations only: no preprocessor lines, attributes or inline functions.
"""

from pathlib import Path

from cffi import FFI

NATIVE = Path("native")  # setuptools wants paths relative to the folder of setup.py
HEADER = NATIVE / "include" / "bedplate.h"
LIBRARY = Path("build") / "native" / "plain" / "libbedplate.a"
BEGIN, END = "/* cffi: begin */", "/* cffi: end */"


def declarations(header: str) -> str:
    """The text between the marks, blank elsewhere so that cffi's line numbers are the header's.

    Raises ValueError for marks that do not pair up, or none.
    """
    kept: list[str] = []
    inside = False
    for number, line in enumerate(header.splitlines(), start=1):
        mark = line.strip()
        if mark in (BEGIN, END):
            if inside == (mark == BEGIN):
                raise ValueError(f"line {number}: {mark} does not follow its counterpart")
            inside = mark == BEGIN
            kept.append("")
        else:
            kept.append(line if inside else "")
    if inside or not any(kept):
        raise ValueError(f"expected declarations between {BEGIN} and {END}")
    return "\n".join(kept)


def ffibuilder() -> FFI:
    """The builder of `bedplate._native`, as setup.py's `cffi_modules` expects it."""
    builder = FFI()
    builder.cdef(declarations(HEADER.read_text()))
    builder.set_source(
        "bedplate._native",
        '#include "bedplate.h"',
        include_dirs=[str(NATIVE / "include")],
        extra_objects=[str(LIBRARY)],
        extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden"],
        # The header's functions are public in the library, not in the extension module.
        extra_link_args=["-Wl,--exclude-libs,ALL"],
        libraries=["pthread", "m"],
        depends=[str(LIBRARY), str(HEADER)],
    )
    return builder
