"""A setting of the C library that makes training on a CPU faster."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Whether freed tensors now stay with the process to be used again; False where the C library has no such setting.

    By default glibc returns every large block to the kernel as soon as it is freed, and each new activation is then
    mapped and zeroed page by page, which costs more than the element-wise operations that fill it. Peak memory is
    the same. Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
