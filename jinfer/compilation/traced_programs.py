"""Steps that were traced before, kept on disk beside what they were compiled to.

To find an executable on disk one must have its program, and to trace and lower that takes Python a second,
with its lock held: for the shapes of an engine most of a start. So the program itself is kept, as StableHLO
in the form of `jax.export`, under a key of all that it follows from: the sources of jinfer and of the
kernels, the versions of JAX, the device, the model's configuration, the engine's limits, and the shape.
"""

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax import export
from jaxtyping import Array

import jinfer
import pallas_kernels
from jinfer.compilation.cache import write_whole
from pallas_kernels.paged_attention.extend import mosaic

logger = logging.getLogger(__name__)

PACKAGES = jinfer, pallas_kernels
# JAX promises no stable meaning of these across versions; the version is part of the key.
KERNEL_CALLS = [
    export.DisabledSafetyCheck.custom_call(name) for name in ("__gpu$xla.gpu.triton", "mosaic_gpu_v2")
]
OPTIONS_OF_JAX = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable")


def traced(
    step: Callable[..., Any], arguments: Sequence[Any], what: Any, directory: Path, device: jax.Device
):
    """`step` of flat `arguments` as a `jax.export.Exported`, from `directory` or traced and kept there.

    `what` has a repr that tells the step from all others of these sources on this device.
    """
    path = directory / f"step-{_key(what, device)}.stablehlo"
    if device.platform == "gpu":
        mosaic.load_runtime()
    if path.is_file():
        try:
            return export.deserialize(bytearray(path.read_bytes()))
        except Exception as error:  # whatever a damaged file makes the reader raise
            logger.warning("%s cannot be read (%r): the step is traced again", path, error)
    platform = "cuda" if device.platform == "gpu" else device.platform
    exported = export.export(jax.jit(step), platforms=[platform], disabled_checks=KERNEL_CALLS)(*arguments)
    try:
        write_whole(path, bytes(exported.serialize()))
    except OSError as error:
        logger.warning("%s cannot be written (%r): the next start traces the step again", path, error)
    return exported


def with_tree(exported: export.Exported, structure: jax.tree_util.PyTreeDef) -> Callable[..., Any]:
    """The step as a function of trees, whose results have `structure`."""

    def step(*arguments: Any) -> Any:
        results: Sequence[Array] = exported.call(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(structure, results)

    return step


def _key(what: Any, device: jax.Device) -> str:
    options = [getattr(jax.config, name) for name in OPTIONS_OF_JAX]
    facts = (
        _sources(),
        jax.__version__,
        jaxlib.__version__,
        device.platform,
        device.device_kind,
        options,
        what,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


@functools.cache
def _sources() -> str:
    """A digest of the code, and of the numbers that kernels are tuned with."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        root = Path(package.__path__[0])
        for file in sorted([*root.rglob("*.py"), *root.rglob("tuned/*.json")]):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
