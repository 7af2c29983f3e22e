"""The choice of a token from logits, row by row, and log probabilities.

The kernels decide for each row which steps it needs, so that a row does not pay for the parameters of another
one, and every call is the same few kernels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.sampling import reference, triton

__all__ = ["sample", "sampled_logits", "top_logprobs"]


def sample(
    logits: Float32[Array, "rows vocab"],
    *,
    temperature: Float32[Array, " rows"],
    top_p: Float32[Array, " rows"],
    min_p: Float32[Array, " rows"],
    top_k: Int32[Array, " rows"],
    seeds: UInt32[Array, "rows 2"],
    positions: Int32[Array, " rows"],
    min_lengths: Int32[Array, " rows"],
    blocked_ids: Int32[Array, "rows blocked"],
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> tuple[Int32[Array, " rows"], Bool[Array, " rows"]]:
    """A token of each row, and whether all its logits are finite; where they are not, the token means
    nothing.

    `blocked_ids` (-1: none) cannot be chosen where `positions < min_lengths`. Temperature 0 takes the largest
    logit, the first of several. Any other draws from softmax(logits / temperature) of the tokens that pass
    all filters:

    - `top_k`: logits no less than the k-th largest; all of them for k < 1.
    - `top_p`: of what top_k left, the fewest of the most likely whose probabilities add up to top_p; all of
      it for 1, and for 0, or a number that float32 cannot tell from it, the most likely alone.
    - `min_p`: probabilities no less than min_p times the largest.

    Ties of the last that is kept are kept, too. A sum that reaches top_p but for the rounding of float32 may
    or may not count as reaching it: implementations add in different orders.

    With filters the token drawn is argmax(logits / temperature + g) of what passes, where g is
    jax.random.gumbel(key, (vocab,)). Without, a slice of `draw.draw_slice_size(vocab)` tokens is drawn first,
    by the sum of its weights: argmax(log(sums of exp(logits / temperature)) + h) with h =
    jax.random.gumbel(fold_in(key, vocab), (slices,)); and then one of its tokens, by the argmax above. Both
    draw from the softmax (Gumbel-max); the second takes random numbers for the slices and for one of them,
    instead of the whole vocabulary, which cost a GPU more than reading the logits. Here key is fold_in(seed,
    position), of the Threefry key of the row's two seed words (Salmon et al., "Parallel Random Numbers: As
    Easy as 1, 2, 3", 2011). So a token depends on its row alone, and is the same in every implementation
    unless two are as good as equal.

    On a GPU all logits are read once. A filter looks again only at slices whose largest logit may pass it.
    """
    parameters = (temperature, top_p, min_p, top_k, seeds, positions, min_lengths, blocked_ids)
    _check(logits, parameters)
    if select(implementation) == "reference":
        return reference.sample(logits, *parameters)
    if blocked_ids.shape[1] == 0:
        # Kernels have no empty arrays.
        parameters = (
            *parameters[:-1],
            jnp.full((logits.shape[0], 1), -1, jnp.int32),
        )
    return triton.sample(logits, *parameters, interpret=should_interpret(interpret))


def sampled_logits(
    logits: Float32[Array, "rows vocab"],
    *,
    temperature: Float32[Array, " rows"],
    top_p: Float32[Array, " rows"],
    min_p: Float32[Array, " rows"],
    top_k: Int32[Array, " rows"],
    positions: Int32[Array, " rows"],
    min_lengths: Int32[Array, " rows"],
    blocked_ids: Int32[Array, "rows blocked"],
) -> Float32[Array, "rows vocab"]:
    """Logits of the distribution that `sample` draws from: divided by the temperature, up to a constant, and
    -inf for each token that a filter or `blocked_ids` excludes. At temperature 0 there are no filters, and
    the logits are not divided.

    It looks at all logits a hundred times, for there is no kernel: to be computed when somebody asks.
    """
    seeds = jnp.zeros((logits.shape[0], 2), jnp.uint32)
    _check(logits, (temperature, top_p, min_p, top_k, seeds, positions, min_lengths, blocked_ids))
    return reference.sampled_logits(
        logits, temperature, top_p, min_p, top_k, positions, min_lengths, blocked_ids
    )


def top_logprobs(
    logits: Float32[Array, "rows vocab"],
    token_ids: Int32[Array, " rows"],
    wanted: Bool[Array, " rows"],
    *,
    count: int = 20,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> tuple[Float32[Array, " rows"], Int32[Array, "rows count"], Float32[Array, "rows count"]]:
    """log(softmax(logits)) of the given tokens; and the ids and log probabilities of the `count` most likely
    tokens.

    The largest comes first, and the first of equals. Rows that are not wanted cost nothing and give zeros.
    """
    rows, vocab_size = logits.shape
    if not 1 <= count <= vocab_size:
        raise ValueError(f"count={count} must be from 1 to the {vocab_size} tokens of the vocabulary")
    if token_ids.shape != (rows,) or wanted.shape != (rows,):
        raise ValueError(
            f"token_ids {token_ids.shape} and wanted {wanted.shape} must have one entry for each of {rows} "
            "rows"
        )
    if select(implementation) == "reference":
        return reference.top_logprobs(logits, token_ids, wanted, count)
    return triton.top_logprobs(logits, token_ids, wanted, count, interpret=should_interpret(interpret))


def _check(logits: Array, parameters: tuple[Array, ...]) -> None:
    """Raises ValueError for shapes or dtypes that do not belong together."""
    rows = logits.shape[0]
    if logits.ndim != 2 or logits.dtype != jnp.float32:
        raise ValueError(f"logits are {logits.dtype}{logits.shape}; they must be float32[rows, vocab]")
    *vectors, seeds, positions, min_lengths, blocked_ids = parameters
    wrong = [x.shape for x in (*vectors, positions, min_lengths) if x.shape != (rows,)]
    if wrong or seeds.shape != (rows, 2) or blocked_ids.ndim != 2 or blocked_ids.shape[0] != rows:
        raise ValueError(
            f"{rows} rows of logits need parameters of shape ({rows},), seeds ({rows}, 2) and blocked_ids "
            f"({rows}, n); got {', '.join(str(x.shape) for x in parameters)}"
        )
