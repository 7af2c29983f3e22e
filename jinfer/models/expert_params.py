"""The parameters of a gated MLP, and of experts with their router."""

from dataclasses import replace

import jax.numpy as jnp

from jinfer.models.config import ExpertNames, ExpertsConfig, MLPConfig
from jinfer.models.stack_specs import Axis, StackSpecs, joined_outputs
from jinfer.weights.param_spec import FusedTensor, ParamSpec


def gated_mlp_params(
    path: str, mlp: MLPConfig, names: tuple[str, ...], embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    """The parameters of a gated MLP. `names` are those of the modules of gate and up, or of the one that
    holds both, and of down."""
    *gate_up, down = names
    inner = Axis("mlp", mlp.intermediate_size)
    outputs = joined_outputs(tuple(gate_up), (inner, inner))
    return {
        **stack.projection(f"{path}/gate_up", embed, outputs, bias=mlp.bias),
        **stack.projection(f"{path}/down", inner, {down: embed}, bias=mlp.bias),
    }


def experts_params(
    path: str, mlp: ExpertsConfig, names: ExpertNames, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    """The parameters of a router, its experts and the shared one."""
    routed = Axis("router", mlp.num_experts)
    specs = _stay_float(stack.projection(f"{path}/router", embed, {names.router: routed}, bias=mlp.bias))
    if mlp.has_correction_bias:
        bias = stack.vector(names.correction_bias, routed, init="zeros")
        specs[f"{path}/router/correction_bias"] = replace(bias, dtype=jnp.dtype(jnp.float32))
    specs |= _routed_params(f"{path}/experts", mlp, names, embed, stack)
    if mlp.shared is not None:
        of_shared = tuple(f"{names.shared}.{name}_proj" for name in ("gate", "up", "down"))
        specs |= gated_mlp_params(f"{path}/shared", mlp.shared, of_shared, embed, stack)
    if mlp.has_shared_gate:
        gate = {names.shared_gate: Axis("shared_gate", 1)}
        specs |= _stay_float(stack.projection(f"{path}/shared_gate", embed, gate, bias=False))
    return specs


BESIDE_NORMS = {
    "norm": "pre_feedforward_layernorm_2",
    "dense_post_norm": "post_feedforward_layernorm_1",
    "post_norm": "post_feedforward_layernorm_2",
}


def beside_params(
    path: str, mlp: ExpertsConfig, names: ExpertNames, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    """The parameters of experts beside a dense MLP, with their norms, and with the scales of what the router
    reads and of each expert's weights."""
    return {
        **experts_params(path, mlp, names, embed, stack),
        **{f"{path}/{name}/scale": stack.norm(tensor, embed) for name, tensor in BESIDE_NORMS.items()},
        f"{path}/router_norm/scale": stack.vector("router.scale", embed, init="ones"),
        f"{path}/expert_scales": stack.vector(
            "router.per_expert_scale", Axis("router", mlp.num_experts), init="ones"
        ),
    }


def _routed_params(
    path: str, mlp: ExpertsConfig, names: ExpertNames, embed: Axis, stack: StackSpecs
) -> dict[str, ParamSpec]:
    inner = Axis("mlp", mlp.intermediate_size)
    fused = FusedTensor(names.fused_gate_up, names.has_turned_fused, names.has_interleaved_fused)
    return {
        **stack.expert_projection(
            f"{path}/gate_up",
            mlp.num_experts,
            embed,
            {names.gate: inner, names.up: inner},
            fused=fused,
            bias=mlp.bias,
        ),
        **stack.expert_projection(
            f"{path}/down",
            mlp.num_experts,
            inner,
            {names.down: embed},
            fused=FusedTensor(names.fused_down, names.has_turned_fused),
            bias=mlp.bias,
        ),
    }


def _stay_float(specs: dict[str, ParamSpec]) -> dict[str, ParamSpec]:
    """Parameters of the choice of experts, which is sharp: rules that quantize leave them."""
    return {path: replace(spec, stays_float=True) for path, spec in specs.items()}
