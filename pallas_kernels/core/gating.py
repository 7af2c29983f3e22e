"""The gate of a feed-forward layer."""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

Activation = Literal["silu", "gelu_tanh"]
"""x / (1 + exp(-x)), and x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))), which approximates
GELU (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016)."""


@dataclass(frozen=True)
class ClampedSwiglu:
    """gate * sigmoid(alpha * gate) * (up + 1) of a gate that is at most `limit`, and of up within -limit to
    limit ("gpt-oss" model card, OpenAI, 2025)."""

    alpha: float = 1.702
    limit: float = 7.0


ExpertActivation = Activation | ClampedSwiglu


def activate_and_multiply(gate: Array, other: Array, activation: Activation) -> Array:
    """activation(gate) * other, of which both are gate times a sigmoid: (1 + tanh(x)) / 2 is
    1 / (1 + exp(-2 * x))."""
    x = gate
    if activation == "gelu_tanh":
        x = 2 * math.sqrt(2 / math.pi) * (gate + 0.044715 * gate * gate * gate)
    return gate / (1 + jnp.exp(-x)) * other


def gated(gate: Array, up: Array, activation: ExpertActivation) -> Array:
    """The gate of an expert, with the activation that it has."""
    if not isinstance(activation, ClampedSwiglu):
        return activate_and_multiply(gate, up, activation)
    gate = jnp.minimum(gate, activation.limit)
    up = jnp.clip(up, -activation.limit, activation.limit)
    return gate / (1 + jnp.exp(-activation.alpha * gate)) * (up + 1)


def silu_and_multiply(gate: Array, other: Array, exp_minus_gate: Array) -> Array:
    """silu(gate) * other with silu(x) = x / (1 + exp(-x)), of which the caller computes the exponential."""
    return gate / (1 + exp_minus_gate) * other
