"""The memory of a device, as jinfer finds it before it takes some."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

GB = 10**9
MB = 10**6
MEMINFO = Path("/proc/meminfo")
MAX_CACHE_BYTES_ON_CPU = 1 * GB  # a laptop's memory belongs to others as well; num_pages overrides


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of a device, the part in use, and the default share of a KV cache."""

    kind: str
    total_bytes: int
    in_use_bytes: int
    max_cache_bytes: int | None = None

    @classmethod
    def of(cls, device: jax.Device) -> "DeviceMemory":
        """The memory that JAX may use of a GPU; of a CPU, the host's available memory, none of it in use."""
        stats = device.memory_stats()
        if stats is None:
            return cls(device.device_kind, _available_host_bytes(), 0, MAX_CACHE_BYTES_ON_CPU)
        return cls(device.device_kind, stats["bytes_limit"], stats["bytes_in_use"])

    def available_bytes(self, utilization: float | int) -> int:
        """The share that jinfer may use, less what is in use."""
        return int(self.total_bytes * utilization) - self.in_use_bytes

    def share(self, utilization: float | int) -> str:
        """The parts of `available_bytes`, for messages."""
        share = f"gpu_memory_utilization={utilization} of {self.kind} ({self.total_bytes / GB:.2f} GB)"
        in_use = f", of which {self.in_use_bytes / GB:.2f} GB were in use before by arrays of this process,"
        return share + in_use * self.is_shared

    @property
    def remedy(self) -> str:
        """A further remedy where memory is in use, to follow others; empty where none is."""
        return (
            "; what other engines and arrays of this process use counts too: LLM.close() gives an engine's "
            "memory back, and a higher gpu_memory_utilization leaves room for both"
        ) * self.is_shared

    @property
    def is_shared(self) -> bool:
        """True if others use a part worth saying."""
        return self.in_use_bytes > MB


def delete_arrays(tree: Any) -> None:
    """Frees the device memory of every array in a pytree now, though references to it may be left."""
    for leaf in jax.tree.leaves(tree):
        if not leaf.is_deleted():
            leaf.delete()


def _available_host_bytes() -> int:
    """The host's memory that programs can have. Cached files count as free: the kernel drops them when it
    must."""
    if MEMINFO.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
