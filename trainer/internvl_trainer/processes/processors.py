"""How many processors a process may use."""

import os
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""The limit of a container's control group, version 2: microseconds of processor time in each period, or `max`."""


def usable_processors(cpu_max: Path = _CPU_MAX) -> int:
    """Processors by this process's affinity, or fewer where its container's CPU limit allows no more; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
    except FileNotFoundError:
        return affinity
    if quota == "max":
        return affinity
    return max(1, min(affinity, int(quota) // int(period)))
