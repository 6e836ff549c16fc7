"""The allocator's settings: freed memory is used again, and other C libraries are left alone."""

import ctypes
import platform
import resource

import pytest
import torch

from benchmark.training.device import tune_allocator

PAGES = 10**7 * 4 // resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_without_page_faults():
    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    tune_allocator()
    for _ in range(20):  # 40 MB, more than glibc keeps by itself; the first times it is new memory
        torch.ones(10**7)
    before = faults()
    for _ in range(10):
        torch.ones(10**7)
    assert faults() - before < PAGES


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.delattr(ctypes, "CDLL")
    tune_allocator()
