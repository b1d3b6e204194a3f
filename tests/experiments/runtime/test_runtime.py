"""Seeds, threads and memory: what a fit puts back, and what it does not ask of the system again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

import experiments
import zoo
from experiments.runtime.seeds import Stream


def test_the_number_of_threads_is_put_back() -> None:
    x = zoo.dataset("eight_schools").x
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        experiments.fit(zoo.build("eight_schools", x), "mean_field", x, steps=5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


FAULTS = """
import resource, torch
from experiments.runtime.threads import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2_500_000) for _ in range(5)]  # ten megabytes each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have rules of their own")
def test_memory_that_was_freed_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    # Without: 190,000 in most runs, and none where a small block happens to lie above the large ones.
    assert int(done.stdout) < 10_000


def test_no_two_purposes_share_a_seed() -> None:
    assert len({int(stream) for stream in Stream}) == len(Stream.__members__)
    assert all(stream > 0 for stream in Stream)
