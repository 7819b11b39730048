"""What this machine reaches at best: the speed of a large matrix product, measured and not looked up."""

import time

import torch

_CPU_SIDE, _ACCELERATOR_SIDE = 1024, 8192
_SECONDS = 0.1


def reached_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The floating-point operations per second that a training step could reach at most, here and now.

    They are those of large matrix products: with this number of threads, this clock, and whatever else the machine is
    doing. A processor that has no units for a narrow type is slower in it than in float32, which then counts.
    """
    if device.type == "cuda" or dtype == torch.float32:
        return _of_products(device, dtype, _side(device, dtype), _SECONDS)
    exact = _of_products(device, torch.float32, _CPU_SIDE, _SECONDS)
    # Small ones first: without such units a large product takes many seconds.
    if _of_products(device, dtype, _CPU_SIDE // 8, _SECONDS / 10) < exact / 4:
        return exact
    return max(exact, _of_products(device, dtype, _CPU_SIDE, _SECONDS))


def _of_products(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
    """The operations per second of the fastest of several products of square matrices, in about so many seconds.

    The global state of random numbers is left as it is.
    """
    generator = torch.Generator(device).manual_seed(0)
    # Drawn numbers: products of zeros take less power, and some devices then run faster than they ever do in earnest.
    first = torch.randn(side, side, generator=generator, device=device).to(dtype)
    second = torch.randn(side, side, generator=generator, device=device).to(dtype)
    ended, fastest = time.perf_counter() + seconds, float("inf")
    product = first @ second
    _wait(device)
    while fastest == float("inf") or time.perf_counter() < ended:
        started = time.perf_counter()
        torch.mm(first, second, out=product)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - started)
    if device.type == "cuda":
        # The memory of these matrices is no part of what training needs.
        del first, second, product
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * side**3 / fastest


def _side(device: torch.device, dtype: torch.dtype) -> int:
    """The side of the matrices: large enough to keep the device busy, small enough to fit beside a model."""
    if device.type != "cuda":
        return _CPU_SIDE
    needed = 4 * _ACCELERATOR_SIDE**2 * torch.empty(0, dtype=dtype).element_size()
    return _ACCELERATOR_SIDE if torch.cuda.mem_get_info(device)[0] > 2 * needed else _ACCELERATOR_SIDE // 4


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
