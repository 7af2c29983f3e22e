"""The one description of each parameter of a model: loading, dummy weights and the memory plan follow from
it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jinfer.placement import Placement
from jinfer.weights.kernel_types import KernelType
from jinfer.weights.params import unflatten

Init = Literal["normal", "zeros", "ones", "codes"] | float
"""The first value of a parameter where there is no checkpoint; "codes" are random ones of a quantized kernel,
and a number stands for itself."""
LAYERS = "layers"
"""The logical axis of a stack: one entry for each of `ParamSpec.layers`."""
EXPERTS = "experts"
"""The logical axis of the experts of a layer, which follows that of the layers."""
JOINED = "joined"
"""The logical axis of several tensors side by side, each of which names the axis of its own columns."""


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of a Hugging Face checkpoint, and how many columns of a parameter it fills.

    A `name` with `{layer}` in it stands for one tensor per layer, and one with `{expert}` for one per expert.
    `axis` is the logical axis of the columns.
    """

    name: str
    axis: str
    num_columns: int


@dataclass(frozen=True)
class FusedTensor:
    """A tensor that a checkpoint may have for each layer in place of those of the experts: a stack of
    matrices [out, in] of each expert, or of [in, out] where it is `is_turned`; or of vectors.

    The outputs of several kinds of one expert lie one kind behind the other, or in turns (a, b, a, b, ...)
    where they are `is_interleaved`.
    """

    name: str
    is_turned: bool = False
    is_interleaved: bool = False


class Place(NamedTuple):
    """An entry of a stack, by its index on each axis of it: of the layers, and of the experts; () of a
    parameter that is no stack. `names` are its tensors, side by side."""

    indices: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class ParamSpec:
    """A parameter: its shape with a logical axis for each dimension, its first value, and where a checkpoint
    has it.

    A stack has the axis `layers` first, and the numbers of its layers in a checkpoint in `layers`; the
    axis `experts` may follow. `tensors` lie side by side along the last axis; the ones that `is_transposed`
    describes are stored as [out, in], and those of all experts of a layer perhaps as `fused` says.

    `kernel_type` is that of a stack of kernels [layers, in, out] or [layers, experts, in, out] which is
    served quantized: it then stands for the arrays of that type. Rules that quantize floats leave a
    parameter that `stays_float` as it is.
    """

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str, ...]
    init: Init
    tensors: tuple[CheckpointTensor, ...]
    is_transposed: bool = False
    layers: tuple[int, ...] = ()
    tied: "TiedParam | None" = None
    kernel_type: KernelType | None = None
    fused: FusedTensor | None = None
    stays_float: bool = False

    def __post_init__(self) -> None:
        assert len(self.axes) == len(self.shape), self
        assert sum(tensor.num_columns for tensor in self.tensors) == self.shape[-1], self
        assert self.is_stacked == bool(self.layers), self
        assert not self.is_stacked or len(self.layers) == self.shape[0], self

    @property
    def is_stacked(self) -> bool:
        return self.axes[0] == LAYERS

    @property
    def num_experts(self) -> int | None:
        """The experts of each layer; None where there are none."""
        return self.shape[1] if self.axes[1:2] == (EXPERTS,) else None

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """The sizes of the axes of a stack: [layers], [layers, experts], or []."""
        if self.num_experts is not None:
            return self.shape[:2]
        return self.shape[:1] if self.is_stacked else ()

    @property
    def entry_shape(self) -> tuple[int, ...]:
        """The shape of one entry of a stack, and of anything else the whole: what tensors side by side
        fill."""
        return self.shape[len(self.stack_shape) :]

    @property
    def abstract(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def arrays(self, path: str) -> "dict[str, ArraySpec]":
        """The arrays of the parameter by their paths."""
        if self.kernel_type is None:
            return {path: ArraySpec(self.shape, self.dtype, self.axes, self.init)}
        stack, entry_axes = self.stack_shape, self.axes[len(self.stack_shape) :]
        return {
            f"{path}/{name}": ArraySpec(
                (*stack, *part.shape),
                part.dtype,
                (*self.axes[: len(stack)], *part.axes(*entry_axes)),
                part.init,
            )
            for name, part in self.kernel_type.parts(*self.entry_shape).items()
        }

    def renamed(self, stored: Callable[[str], str]) -> "ParamSpec":
        """The parameter with the names of tensors that `stored` gives for its own."""
        tensors = tuple(replace(tensor, name=stored(tensor.name)) for tensor in self.tensors)
        tied = None if self.tied is None else replace(self.tied, spec=self.tied.spec.renamed(stored))
        fused = None if self.fused is None else replace(self.fused, name=stored(self.fused.name))
        return replace(self, tensors=tensors, tied=tied, fused=fused)

    def places(self) -> Iterator[Place]:
        """All entries, layer by layer and expert by expert."""
        if not self.is_stacked:
            yield Place((), tuple(tensor.name for tensor in self.tensors))
        for index, layer in enumerate(self.layers):
            for expert in range(self.num_experts or 1):
                names = tuple(tensor.name.format(layer=layer, expert=expert) for tensor in self.tensors)
                yield Place((index,) if self.num_experts is None else (index, expert), names)

    def tensor_names(self) -> Iterator[str]:
        """The names of all its tensors, layer by layer."""
        for place in self.places():
            yield from place.names


@dataclass(frozen=True)
class ArraySpec:
    """An array on the devices."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str, ...]
    init: Init


@dataclass(frozen=True)
class TiedParam:
    """A parameter with the values of another, such as the head of a tied model.

    Stored instead of the other it stands for it; stored beside it with other values, it is a parameter of its
    own.
    """

    path: str
    spec: ParamSpec

    @property
    def tensor_name(self) -> str:
        (tensor,) = self.spec.tensors
        return tensor.name


@dataclass(frozen=True)
class IgnoredTensors:
    """Tensors of a checkpoint, by a pattern of their names, that hold nothing of a model: it computes them
    itself.

    With `dtypes`, safetensors' names of them, a tensor of another dtype is not meant.
    """

    names: re.Pattern[str]
    dtypes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class ParamSpecs:
    """The parameters of a model by path, and the tensors that its checkpoints may hold besides.

    `kv_scales` are the scales of its KV cache, by path: parameters where a checkpoint has them. Checkpoints
    of a model that `is_part` of a multimodal one hold the others' tensors, too, and may have other names.
    """

    by_path: Mapping[str, ParamSpec]
    ignored: tuple[IgnoredTensors, ...] = ()
    kv_scales: Mapping[str, ParamSpec] = field(default_factory=dict)
    is_part: bool = False

    @property
    def flat(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each parameter as floats, in the order of the paths."""
        return {path: self.by_path[path].abstract for path in self._ordered}

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays of all parameters by path, in the order of the paths."""
        return {
            name: array for path in self._ordered for name, array in self.by_path[path].arrays(path).items()
        }

    def placed(self, placement: Placement) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape, the dtype and the layout of each array, by its logical axes."""
        return {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.sharding(x.axes))
            for path, x in self.arrays.items()
        }

    @property
    def abstract(self) -> dict[str, Any]:
        """The nested dict of parameters, with a shape and a dtype for each array."""
        return self.tree({path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in self.arrays.items()})

    def tree(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The nested dict of parameters of their arrays, or of what stands for them: those of a quantized
        kernel are one object."""
        params = {}
        for path, spec in self.by_path.items():
            if spec.kernel_type is None:
                params[path] = arrays[path]
                continue
            num_in, num_out = spec.entry_shape
            parts = {name: arrays[f"{path}/{name}"] for name in spec.kernel_type.parts(num_in, num_out)}
            params[path] = spec.kernel_type.kernel(parts, num_in)
        return unflatten({path: params[path] for path in self._ordered})

    @property
    def kernel_types(self) -> dict[str, KernelType]:
        """The type of each parameter that is served quantized."""
        return {path: spec.kernel_type for path, spec in self.by_path.items() if spec.kernel_type is not None}

    def typed(self, kernel_types: Mapping[str, KernelType]) -> "ParamSpecs":
        """The parameters with the types of some of their kernels."""
        by_path = {
            path: replace(spec, kernel_type=kernel_types.get(path, spec.kernel_type))
            for path, spec in self.by_path.items()
        }
        return replace(self, by_path=by_path)

    def with_kv_scales(self) -> "ParamSpecs":
        """The parameters of a model whose cache has fixed scales."""
        return replace(self, by_path={**self.by_path, **self.kv_scales})

    @property
    def _ordered(self) -> list[str]:
        return sorted(self.by_path, key=lambda path: path.split("/"))

    @property
    def tied(self) -> dict[str, TiedParam]:
        """The tied parameter of each path that has one."""
        return {path: spec.tied for path, spec in self.by_path.items() if spec.tied is not None}

    def untied(self, path: str) -> "ParamSpecs":
        """The parameters with the one that is tied to `path` as a parameter of its own."""
        tied = self.tied[path]
        by_path = {**self.by_path, path: replace(self.by_path[path], tied=None), tied.path: tied.spec}
        return replace(self, by_path=by_path)

    def renamed(self, stored: Callable[[str], str]) -> "ParamSpecs":
        """The parameters with the names of tensors that `stored` gives for theirs."""
        return replace(
            self,
            by_path={path: spec.renamed(stored) for path, spec in self.by_path.items()},
            kv_scales={path: spec.renamed(stored) for path, spec in self.kv_scales.items()},
        )

    def ignores(self, name: str, dtype_name: str | None = None) -> bool:
        """True if a tensor of this name holds nothing of the model; without a dtype, if that holds for every
        dtype."""
        return any(
            pattern.names.search(name) is not None
            and (pattern.dtypes is None or dtype_name in pattern.dtypes)
            for pattern in self.ignored
        )
