"""A model of the caller's own, which jinfer serves as it serves those that it knows."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from jinfer.models.config import ModelConfig
from jinfer.models.model import DecoderModule, Model
from jinfer.weights.param_spec import LAYERS, CheckpointTensor, Init, ParamSpec, ParamSpecs
from pallas_kernels import Implementation

KERNEL = "kernel"
INITS: Mapping[str, Init] = {KERNEL: "normal", "scale": "ones", "bias": "zeros"}


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A decoder that jinfer does not have: `LLM(model=OwnModel(...), params=...)` serves it.

    `config`, which may be of a subclass of ModelConfig with fields of its own, says what the engine has to
    know: the vocabulary, the context, and of each layer the KV heads and the head_dim, from which the paged
    cache follows. `param_shapes` has the shape of each parameter by its path, as in "attention/qkv/kernel".
    One of three axes that ends in "kernel" is a stack [layers, in, out], which quantization= quantizes.
    `module` makes of the parameters what computes. docs/bring_your_own_model.md has an example.
    """

    config: ModelConfig
    param_shapes: Mapping[str, tuple[int, ...]]
    module: type[DecoderModule]
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a sequence, besides the tokenizer's own."""

    def build(self, dtype: jnp.dtype, implementation: Implementation) -> Model:
        """The model without weights, with parameters of `dtype`."""
        specs = {path: _spec(path, shape, dtype) for path, shape in self.param_shapes.items()}
        return Model(self.config, implementation, ParamSpecs(specs), self.module, is_own=True)


def _spec(path: str, shape: tuple[int, ...], dtype: jnp.dtype) -> ParamSpec:
    name = path.rpartition("/")[2]
    is_stack = name == KERNEL and len(shape) == 3
    return ParamSpec(
        shape=shape,
        dtype=dtype,
        axes=(LAYERS, "in", "out") if is_stack else tuple(f"axis_{i}" for i in range(len(shape))),
        init=INITS.get(name, "normal"),
        tensors=(CheckpointTensor(path, "out", shape[-1]),),
        is_transposed=is_stack,
        layers=tuple(range(shape[0])) if is_stack else (),
    )
