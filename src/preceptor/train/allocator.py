"""Settings of the C library: what becomes of memory that tensors leave behind on a CPU."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK_BYTES = 1 << 30
_SMALLEST_MAPPED_BYTES = 1 << 20


def keep_freed_memory() -> bool:
    """Whether freed tensors now stay with the process to be used again; False where the C library has no such setting.

    By default glibc returns every large block to the kernel as soon as it is freed, and each new activation is then
    mapped and zeroed page by page, which costs more than the element-wise operations that fill it. Peak memory is
    the same. Source: mallopt(3).
    """
    return _set(_LARGEST_BLOCK_BYTES, (1 << 31) - 1)


def return_freed_memory() -> bool:
    """Whether tensors that are freed from now on leave the process; False where the C library has no such setting.

    Where short-lived tensors lie between those that stay, as where activations are made anew, what is kept to be used
    again does not fit, and the process grows to several times of what it needs. Source: mallopt(3).
    """
    return _set(_SMALLEST_MAPPED_BYTES, _SMALLEST_MAPPED_BYTES)


def _set(mapped_from_bytes: int, trimmed_from_bytes: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, mapped_from_bytes)) and bool(mallopt(_M_TRIM_THRESHOLD, trimmed_from_bytes))
