"""The GPU that a kernel is traced for."""

from dataclasses import dataclass

import jax

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


def target_device() -> Device:
    """The device of the abstract mesh in use, for which a program is compiled without one, else the default device."""
    described = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if described is not None:
        return Device(described.device_kind, described.num_cores or DEFAULT_NUM_MULTIPROCESSORS)
    device = jax.devices()[0]
    return Device(device.device_kind, getattr(device, "core_count", None) or DEFAULT_NUM_MULTIPROCESSORS)
