"""The rules by which rotary embedding turns queries and keys, and the numbers of each.

They are those of transformers 5 (`modeling_rope_utils.py`), which serves any of them in any family. Each
knows its `context`: how many positions can be used, where config.json has a given max_position_embeddings.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearRopeScaling:
    """Positions are divided by `factor`."""

    factor: float

    def context(self, max_position_embeddings: int) -> int:
        """config.json has the positions before the division."""
        return max(max_position_embeddings, int(max_position_embeddings * self.factor))


@dataclass(frozen=True)
class DynamicRopeScaling:
    """Theta grows with the sequence, from `original_max_position_embeddings` on ("dynamic NTK")."""

    factor: float
    original_max_position_embeddings: int

    def context(self, max_position_embeddings: int) -> int:
        return max(max_position_embeddings, int(max_position_embeddings * self.factor))


@dataclass(frozen=True)
class YarnRopeScaling:
    """Low frequencies are divided by `factor`, high ones kept, and those between blended, by how often a
    frequency turns within the original context (Peng et al., "YaRN", 2023). Cosine and sine are multiplied by
    `attention_factor`.

    With `truncate` the blended band ends at whole pairs of dimensions.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def context(self, max_position_embeddings: int) -> int:
        """Files have either length under max_position_embeddings: what they were extended to, or from."""
        return max(max_position_embeddings, int(self.original_max_position_embeddings * self.factor))


@dataclass(frozen=True)
class LongRopeScaling:
    """Each frequency has two divisors: one for sequences up to the original context, one for longer ones
    (Ding et al., "LongRoPE", 2024). Cosine and sine are multiplied by `attention_factor`."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]

    def context(self, max_position_embeddings: int) -> int:
        return max(max_position_embeddings, int(self.original_max_position_embeddings * self.factor))


@dataclass(frozen=True)
class Llama3RopeScaling:
    """Low frequencies are divided by `factor`, high ones kept, and those between blended (Llama 3.1's
    rule)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def context(self, max_position_embeddings: int) -> int:
        return max_position_embeddings


@dataclass(frozen=True)
class ProportionalRope:
    """The first share of the pairs is turned, by the frequencies that it has when all are; the others are not
    (Gemma 4)."""

    share: float

    def context(self, max_position_embeddings: int) -> int:
        return max_position_embeddings


RopeScaling = (
    LinearRopeScaling
    | DynamicRopeScaling
    | YarnRopeScaling
    | LongRopeScaling
    | Llama3RopeScaling
    | ProportionalRope
)


@dataclass(frozen=True)
class RopeConfig:
    theta: float
    scaling: RopeScaling | None = None

    @property
    def attention_factor(self) -> float:
        """The factor of cosine and sine."""
        return (
            self.scaling.attention_factor
            if isinstance(self.scaling, YarnRopeScaling | LongRopeScaling)
            else 1.0
        )

    @property
    def depends_on_length(self) -> bool:
        """True if a token is turned by more than its position: by the length of its sequence when it was
        computed.

        That is the prompt's length for tokens of the prompt, and position + 1 for tokens after it, as in
        transformers, where a prompt is computed in one step and each later token in one of its own.
        """
        return isinstance(self.scaling, DynamicRopeScaling | LongRopeScaling)

    def rotation_class(self, prompt_length: int) -> int | None:
        """Equal for prompts whose keys are turned alike, so that requests may share them.

        None: by the position alone. Up to the original context a prompt's length changes nothing, and what
        follows it is turned by its position. Longer ones are turned by the long factors throughout, or by
        their own length.
        """
        match self.scaling:
            case LongRopeScaling(original_max_position_embeddings=original) if prompt_length > original:
                return original
            case DynamicRopeScaling(original_max_position_embeddings=original) if prompt_length > original:
                return prompt_length
        return None

    def context(self, max_position_embeddings: int) -> int:
        """Positions that the model can be used for, where config.json has `max_position_embeddings`."""
        return (
            max_position_embeddings if self.scaling is None else self.scaling.context(max_position_embeddings)
        )
