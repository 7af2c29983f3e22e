"""The choice of experts for each token, of Shazeer et al., "Outrageously Large Neural Networks: The
Sparsely-Gated Mixture-of-Experts Layer" (2017).

Groups are those of "DeepSeek-V2" (2024), and sigmoids with a correction bias those of "DeepSeek-V3 Technical
Report" (2024).
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Float32, Int32

from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.router import reference, triton
from pallas_kernels.router.contract import check_arguments
from pallas_kernels.router.options import GroupScore, RouterOptions, Scores

__all__ = ["GroupScore", "RouterOptions", "Routing", "Scores", "route"]


class Routing(NamedTuple):
    """The experts of each token, the best first, and the weights of what they give."""

    weights: Float32[Array, "tokens k"]
    expert_ids: Int32[Array, "tokens k"]


def route(
    logits: Float[Array, "tokens experts"],
    options: RouterOptions,
    *,
    correction_bias: Float[Array, " experts"] | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Routing:
    """The `options.top_k` experts of each token and their weights, as `options` say; all in float32.

    `correction_bias` is added to the scores of the softmax or the sigmoid where experts and groups are
    chosen; weights are of the scores without it. Of experts, and of groups, that are equal the first is
    taken. A token's routing depends on its own logits alone; where these are not finite its weights may be
    NaN, and its ids are still 0 to experts - 1 and differ from each other.

    Raises ValueError where the sizes do not agree with the options.
    """
    check_arguments(logits, options, correction_bias)
    if select(implementation) == "reference":
        return Routing(*reference.route(logits, options, correction_bias))
    interpret = should_interpret(interpret)
    return Routing(*triton.route(logits, options, correction_bias, interpret=interpret))
