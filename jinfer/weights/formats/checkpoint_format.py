"""The contract of a format of quantized checkpoints, and the checkpoint as one of floats that it stands
for."""

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from jinfer.errors import CheckpointError
from jinfer.weights.formats.kv_scales import KVScheme
from jinfer.weights.formats.module_tensors import ModuleTensors
from jinfer.weights.kernel_types import KernelType
from jinfer.weights.params import named, raise_faults
from jinfer.weights.safetensors_directory import TensorFiles
from jinfer.weights.tensor_source import StoredTensor

logger = logging.getLogger(__name__)

WEIGHT = "weight"


class CheckpointFormat(ABC):
    """A format, as the configuration of a checkpoint describes it.

    `parts` are the last parts of the names of tensors that it makes a weight of, and `not_applied` of those
    that belong to activations, where a weight has no use for them. A `joint` is between them and the name of
    the module. `kv_scheme` says what becomes of scales of the KV cache.
    """

    parts: frozenset[str]
    not_applied: frozenset[str] = frozenset()
    joint = "."
    kv_scheme = KVScheme(None, "the format has none")

    @property
    @abstractmethod
    def title(self) -> str:
        """The name of the format in messages, such as "4-bit AWQ"."""

    @abstractmethod
    def weight(self, module: ModuleTensors) -> StoredTensor | None:
        """The weight that the tensors of a module stand for; None if it is stored plainly. Raises
        CheckpointError for tensors that do not fit each other or the configuration."""

    def kernel_type(self, module: str) -> KernelType | None:
        """The type in which a module is served, as far as the configuration says it without the tensors."""
        return None

    def float_name(self, module: str) -> str:
        """The name of the weight of a module in a checkpoint of floats."""
        return f"{module}.{WEIGHT}"


def dequantized(files: TensorFiles, stored_as: CheckpointFormat) -> TensorFiles:
    """The tensors with a weight of floats for each quantized module, in the place of its parts. Raises
    CheckpointError that names every module at fault."""
    modules: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for name, tensor in files.tensors.items():
        module, _, leaf = name.rpartition(stored_as.joint)
        modules[module][leaf] = tensor
    weights: dict[str, StoredTensor] = {}
    faults: list[str] = []
    for name, tensors in modules.items():
        try:
            weight = stored_as.weight(ModuleTensors(name, tensors, stored_as.joint))
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if weight is not None:
            weights[name] = weight
    raise_faults(faults, str(files.origin))
    return replace(files, tensors=_with_weights(files, stored_as, weights))


def _with_weights(
    files: TensorFiles, stored_as: CheckpointFormat, weights: dict[str, StoredTensor]
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    not_applied = []
    for name, tensor in files.tensors.items():
        module, _, leaf = name.rpartition(stored_as.joint)
        if module in weights and leaf in stored_as.parts:
            tensors[stored_as.float_name(module)] = weights[module]
        elif leaf in stored_as.not_applied:
            not_applied.append(name)
        else:
            tensors[name] = tensor
    if not_applied:
        logger.info("not applied, since what they belong to is not quantized: %s", named(not_applied))
    return tensors


def lists(modules: Iterable[str], name: str) -> bool:
    """True if one of `modules` is in the name of a module, part by part: "mlp.gate" is not in
    "mlp.gate_proj"."""
    return any(f".{module}." in f".{name}." for module in modules)
