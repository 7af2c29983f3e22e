"""The use of the device's memory."""

from dataclasses import dataclass

from jinfer.config import EngineLimits
from jinfer.execution.device_memory import GB, MB

NOT_WORTH_SAYING_BYTES = 10**5


@dataclass(frozen=True)
class MemoryPlan:
    """The use of the device's memory. `str` says it in a line."""

    device_bytes: int
    """Bytes of the device that JAX may use."""
    utilization: float
    """The share of it that the engine keeps to."""
    in_use_bytes: int
    """Bytes in use on the device before this engine started: others', and params that the caller had
    there."""
    weight_bytes: int
    workspace_bytes: int
    """Bytes that a step needs beside weights and cache, and a reserve."""
    cache_bytes: int
    limits: EngineLimits

    @property
    def num_cached_tokens(self) -> int:
        """Tokens that the cache holds, of all sequences together."""
        return (self.limits.num_pages - 1) * self.limits.page_size

    @property
    def unplanned_bytes(self) -> int:
        """Bytes that are left where the cache does not need them all."""
        used = self.in_use_bytes + self.weight_bytes + self.workspace_bytes + self.cache_bytes
        return int(self.device_bytes * self.utilization) - used

    @property
    def _cache_name(self) -> str:
        dtype = self.limits.kv_cache_dtype
        return "KV cache" if dtype == "auto" else f"KV cache in {dtype}"

    def __str__(self) -> str:
        parts = {
            "in use before": self.in_use_bytes,
            "weights": self.weight_bytes,
            "workspace": self.workspace_bytes,
            "left over": self.unplanned_bytes,
            self._cache_name: self.cache_bytes,
        }
        named = ", ".join(
            f"{name} {_readable(size)}" for name, size in parts.items() if size > NOT_WORTH_SAYING_BYTES
        )
        limits = self.limits
        return (
            f"memory: {_readable(self.device_bytes)} x {self.utilization:g}: {named} = "
            f"{self.num_cached_tokens:,} "
            f"tokens in {limits.num_pages:,} pages of {limits.page_size}; context {limits.max_model_len:,}"
        )


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / GB:.1f} GB" if num_bytes >= GB / 10 else f"{num_bytes / MB:.1f} MB"
