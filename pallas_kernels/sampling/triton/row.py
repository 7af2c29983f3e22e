"""A row's sampling parameters, and its logits with what is blocked taken out."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import LOG2_E, exp2_scaled
from pallas_kernels.sampling.triton.random import SMALLEST_NORMAL, Key, fold_in, gumbel_noise, log

NUM_ROW_OPERANDS = 9  # of every kernel that makes a Row: logits, and what follows in `sample`'s signature


@dataclass(frozen=True)
class Row:
    """Scalars, and references to the logits [rows, vocab] and the blocked ids [rows, blocked].

    `key` is of the token to draw. A row has it after `with_key`: most programs do without the few hundred
    instructions.
    """

    logits_ref: Any
    blocked_ref: Any
    index: Array
    temperature: Array
    top_p: Array
    min_p: Array
    top_k: Array
    seed: Key
    position: Array
    is_early: Array
    interpret: bool
    key: Key | None = None

    @classmethod
    def load(cls, index, refs, *, interpret: bool) -> "Row":
        logits, temperature, top_p, min_p, top_k, seeds, positions, min_lengths, blocked = refs
        position = positions[index]
        return cls(
            logits_ref=logits,
            blocked_ref=blocked,
            index=index,
            temperature=temperature[index],
            top_p=jnp.maximum(top_p[index], SMALLEST_NORMAL),
            min_p=min_p[index],
            top_k=top_k[index],
            seed=(seeds[index, 0], seeds[index, 1]),
            position=position,
            is_early=position < min_lengths[index],
            interpret=interpret,
        )

    def with_key(self) -> "Row":
        """The row, ready for `score`."""
        key = jax.lax.cond(self.is_random, lambda: fold_in(self.seed, self.position), lambda: self.seed)
        return replace(self, key=key)

    @property
    def vocab_size(self) -> int:
        return self.logits_ref.shape[1]

    @property
    def is_random(self) -> Array:
        return self.temperature > 0

    @property
    def has_top_k(self) -> Array:
        return (self.top_k > 0) & (self.top_k < self.vocab_size)

    @property
    def has_top_p(self) -> Array:
        return self.top_p < 1

    @property
    def is_filtered(self) -> Array:
        return self.is_random & (self.has_top_k | self.has_top_p | (self.min_p > 0))

    def logits(self, column: Array) -> Array:
        """The logits as they are, and -inf outside the vocabulary."""
        return plt.load(self.logits_ref.at[self.index, column], mask=column < self.vocab_size, other=-jnp.inf)

    def without_blocked(self, logits: Array, column: Array) -> Array:
        """-inf at the blocked ids, if the row has not reached its min_length."""

        def without_one(i, x):
            return jnp.where(column == self.blocked_ref[self.index, i], -jnp.inf, x)

        # A loop of a length that the compiler knows becomes so many copies of its body, wherever logits are
        # loaded.
        num_blocked = self.is_early.astype(jnp.int32) * self.blocked_ref.shape[1]
        return jax.lax.fori_loop(0, num_blocked, without_one, logits)

    def allowed(self, column: Array) -> Array:
        """The logits that may be chosen, and -inf elsewhere."""
        return self.without_blocked(self.logits(column), column)

    def scaled(self, centered: Array) -> Array:
        """Logits less the largest of some, at the row's temperature: a tiny one makes them 0 or overflow to
        -inf."""
        return centered * (1 / jnp.maximum(self.temperature, SMALLEST_NORMAL))

    def weight(self, logits: Array, largest: Array) -> Array:
        """Probabilities relative to that of `largest`: at most 1, and 0 for -inf."""
        scaled = self.scaled(logits - largest)
        return exp2_scaled(scaled, LOG2_E, jnp.zeros_like(scaled), interpret=self.interpret)

    def score(self, logits: Array, largest: Array, column: Array) -> Array:
        """A value that is largest at the token to draw (the Gumbel-max trick)."""
        assert self.key is not None
        return self.scaled(logits - largest) + gumbel_noise(self.key, column, interpret=self.interpret)

    def slice_score(self, largest: Array, row_largest: Array, sums: Array) -> Array:
        """A value that is largest at the slice to draw, of all slices' largest logits and sums of weights."""
        assert self.key is not None
        noise = gumbel_noise(
            fold_in(self.key, jnp.int32(self.vocab_size)), jnp.arange(largest.size), interpret=self.interpret
        )
        return self.scaled(largest - row_largest) + log(sums, interpret=self.interpret) + noise
