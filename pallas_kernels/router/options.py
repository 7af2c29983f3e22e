"""The methods of routing, and what contradicts what in one."""

from dataclasses import dataclass
from typing import Literal, get_args

Scores = Literal["softmax", "sigmoid", "softmax_of_chosen"]
GroupScore = Literal["max", "two_best"]


@dataclass(frozen=True)
class RouterOptions:
    """The way in which `top_k` experts are chosen by logits, and weighed.

    - `scores` "softmax" and "sigmoid" are of all logits; the `top_k` with the largest scores are chosen, and
      their scores are the weights. "softmax_of_chosen" chooses by the logits, and the weights are the
      softmax of the chosen ones' alone.
    - `renormalize` divides a token's weights by their sum plus 1e-20, and `scaling` then multiplies them.
    - Where `top_groups` is less than `num_groups`, experts lie in `num_groups` equal groups, side by side,
      and are chosen from the `top_groups` best of these. A group's `group_score` is that of its best expert
      ("max"), or the sum of its two best ("two_best").

    Published models have

        Mixtral, Qwen3-MoE        "softmax", with `renormalize`
        Qwen2-MoE, DeepSeek-V2    "softmax", the latter with `scaling`, and by groups with "max"
        gpt-oss                   "softmax_of_chosen"
        DeepSeek-V3, GLM-4.7      "sigmoid" with a correction bias, `renormalize`, `scaling`, and groups with
                                  "two_best"

    Raises ValueError for what contradicts itself.
    """

    top_k: int
    scores: Scores = "softmax"
    renormalize: bool = False
    scaling: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    group_score: GroupScore = "max"

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: a token needs at least 1 expert")
        for name, value, known in (
            ("scores", self.scores, get_args(Scores)),
            ("group_score", self.group_score, get_args(GroupScore)),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {known}")
        if not 1 <= self.top_groups <= self.num_groups:
            raise ValueError(
                f"top_groups={self.top_groups} of num_groups={self.num_groups}: it must be 1 to num_groups"
            )
        if self.renormalize and self.scores == "softmax_of_chosen":
            raise ValueError(
                "renormalize=True with scores='softmax_of_chosen', whose sum is 1 already; leave it out"
            )

    @property
    def is_grouped(self) -> bool:
        """True where some groups are left out."""
        return self.top_groups < self.num_groups

    def orders_by_logits(self, has_correction_bias: bool) -> bool:
        """True where experts are in the order of their logits: scores of different logits can be equal when
        they are rounded, and logits say which is larger."""
        has_sums = self.is_grouped and self.group_score == "two_best"
        return not has_correction_bias and not has_sums
