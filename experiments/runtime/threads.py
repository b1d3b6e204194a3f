"""Settings of threads, memory and matrix products, which a context sets and puts back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Densities that touch fewer numbers per draw than this run on one thread.
ONE_THREAD = 2**16


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """Run small densities on one thread, and put torch's setting back after.

    A density that touches few ``numbers`` per draw is made of operations too short to share out: measured on two cores, two
    threads took five to eight times as long as one below 20,000 numbers, and were a quarter faster at 115,000.
    """
    before = torch.get_num_threads()
    if numbers < ONE_THREAD and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def keep_memory() -> None:
    """Let the C library keep freed memory for the next tensors.

    glibc gives blocks larger than any that was freed before, up to 32 MiB, back to the system, and the end of its heap where
    that is twice as large. Each operation on some hundred thousand numbers then begins with pages that the system has to clear:
    measured, up to a quarter of the time of a fit. Once a block of nearly 32 MiB was freed, it keeps what a fit needs. This one
    is not touched, so it takes no memory. Other C libraries, and other devices, take no notice.

    Source: mallopt(3), M_MMAP_THRESHOLD, https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@contextmanager
def quick_products() -> Iterator[None]:
    """Let float32 matrix products be as quick as the machine makes them, and put torch's setting back after.

    On processors without a narrower type of their own the error is that of float32, in less than half the time; others may
    round the factors to bfloat16 or TF32, as training bears. Evaluation never runs in here.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
