"""The arguments of routing, and what contradicts what."""

from jaxtyping import Array

from pallas_kernels.router.options import RouterOptions


def check_arguments(logits: Array, options: RouterOptions, correction_bias: Array | None) -> None:
    """Raises ValueError where the sizes do not agree with the options."""
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits have shape {logits.shape}; pass [tokens, experts]")
    num_experts = logits.shape[1]
    if num_experts % options.num_groups:
        raise ValueError(
            f"{num_experts} experts in num_groups={options.num_groups}: groups must be of equal size"
        )
    group_size = num_experts // options.num_groups
    if options.top_k > options.top_groups * group_size:
        raise ValueError(
            f"top_k={options.top_k} of {options.top_groups} groups of {group_size} experts: there are not so "
            "many"
        )
    if options.is_grouped and options.group_score == "two_best" and group_size < 2:
        raise ValueError(f"group_score='two_best' of groups of {group_size}: it needs two experts in each")
    if correction_bias is None:
        return
    if options.scores == "softmax_of_chosen":
        raise ValueError("correction_bias with scores='softmax_of_chosen': no method has both; add it before")
    if correction_bias.shape != (num_experts,):
        raise ValueError(f"correction_bias has shape {correction_bias.shape}; it must be ({num_experts},)")
