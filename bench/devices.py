"""The device that a benchmark runs on: its name, its peak, its memory."""

import platform
from pathlib import Path

import psutil
import torch

PEAKS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}
"""Dense bf16 operations per second by the device's full name: PCIe and NVL cards of a series can be slower.

Source: the vendor's data sheets.
"""


def on_cuda() -> bool:
    """Whether there is a CUDA device."""
    return torch.cuda.is_available()


def describe() -> str:
    """The accelerator, or the processor with its cores."""
    if on_cuda():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {psutil.cpu_count()} cores, {torch.get_num_threads()} threads"


def peak_flops(precision: str) -> float | None:
    """Operations per second at best, where they are known: bf16 on the devices of PEAKS."""
    if not on_cuda() or precision != "bf16":
        return None
    return PEAKS.get(torch.cuda.get_device_name())


def wait() -> None:
    """Until the device has done all that it was given."""
    if on_cuda():
        torch.cuda.synchronize()


def held_bytes() -> int:
    """Memory in use now: of the device's allocator, or of this process."""
    return torch.cuda.memory_allocated() if on_cuda() else psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """The most since `reset_peak`; on CPU what is in use now, as the system keeps no peak that can be reset."""
    return torch.cuda.max_memory_allocated() if on_cuda() else held_bytes()


def reset_peak() -> None:
    """Begin a new peak."""
    if on_cuda():
        torch.cuda.reset_peak_memory_stats()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
