"""The rules that change the logits of a request's rows on the device before a token is chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_LOGIT_BIAS = 1024
"""A row of the device holds as many token ids with a bias."""


@dataclass(frozen=True, eq=False)
class LogitsRules:
    """Penalties, biases and allowed tokens, the same for every token of a request. All defaults together
    change nothing.

    The device applies them in this order, to the model's own logits: the repetition penalty, the frequency
    and presence penalties, the bias, then the masks. Temperature and filters come after.
    """

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of token ids, of which there are at most MAX_LOGIT_BIAS."""
    allowed_mask: NDArray[np.uint32] | None = None
    """uint32[num_mask_words(vocab_size)], a bit a token, as TokenMasker describes it; None allows all."""
