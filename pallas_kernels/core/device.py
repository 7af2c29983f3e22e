"""The GPU that a kernel is traced for."""

from dataclasses import dataclass

import jax

HOPPER = {"H100", "H200", "H800", "H20", "GH200"}
THREADS_PER_WARP = 32
VECTOR_BYTES = 16  # that one instruction of a thread loads
CACHE_BYTES = 50 * 2**20  # streams longer than the L2 cache are best dropped from it early
DEFAULT_NUM_MULTIPROCESSORS = 132  # of an H100 or H200, where no GPU can be asked


@dataclass(frozen=True)
class Device:
    """`kind` is the vendor's name ("NVIDIA H200"), and "cpu" without a GPU."""

    kind: str
    num_multiprocessors: int

    @property
    def file_name(self) -> str:
        """The kind as it names a file of tuned numbers: "nvidia-h200"."""
        return "-".join(self.kind.lower().replace("/", " ").split())

    @property
    def is_hopper(self) -> bool:
        """True for compute capability 9.0, by the name: a described device has no other."""
        return not HOPPER.isdisjoint(self.kind.replace("-", " ").split())


def target_device() -> Device:
    """The device of the abstract mesh in use, for which a program is compiled without one, else the default
    device."""
    device = _target()
    num_multiprocessors = getattr(device, "num_cores", None) or getattr(device, "core_count", None)
    return Device(device.device_kind, num_multiprocessors or DEFAULT_NUM_MULTIPROCESSORS)


def targets_a_gpu() -> bool:
    """True where the target device is a GPU."""
    return _target().platform == "gpu"


def _target() -> jax.sharding.AbstractDevice | jax.Device:
    return getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None) or jax.devices()[0]
