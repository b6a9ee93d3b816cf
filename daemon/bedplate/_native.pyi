# What setup.py builds from native/include/bedplate.h with cffi; bedplate.native gives it types.
from typing import Any

ffi: Any
lib: Any
