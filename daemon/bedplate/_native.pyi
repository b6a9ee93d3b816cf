# The cffi module that setup.py builds from native/include/bedplate.h; bedplate.native gives it types.
from typing import Any

ffi: Any
lib: Any
