"""The choices of `jinfer convert --quantize`, checked, and what they ask for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jinfer.errors import ConfigError
from jinfer.eval.tokenized_text import read_text
from jinfer.models.config import ModelConfig
from jinfer.quantization.calibration import Calibration
from jinfer.quantization.clip_search import ClipSearch
from jinfer.quantization.model_quantization import QuantizationPlan
from jinfer.quantization.scale_search import ActivationAwareSearch, ScaleChoice, smoothing_scales
from jinfer.quantization.schemes import Int4Scheme, Int8Scheme, Scheme, scheme_of
from jinfer.text.tokenizer import Tokenizer

DEFAULT_GROUP_SIZE = 128


@dataclass(frozen=True)
class QuantizeOptions:
    """A scheme by name, and the options beside it. Raises ConfigError for what contradicts each other."""

    name: str
    group_size: int | None = None
    calibration: Path | None = None
    is_static: bool = False

    def __post_init__(self) -> None:
        has_activations = self.scheme.activation_max is not None
        if self.group_size is not None and has_activations:
            raise ConfigError(
                f"--group-size {self.group_size} with {self.name}, which has a scale for each output; leave "
                "it out, or give int4"
            )
        if self.is_static and not has_activations:
            raise ConfigError(
                f"--static with {self.name}, which leaves activations as they are; leave it out, or give "
                "int8 or fp8"
            )
        if self.is_static and self.calibration is None:
            raise ConfigError("--static takes its scales from a text; give one to --calibration")

    @property
    def scheme(self) -> Scheme:
        return scheme_of(self.name, self.group_size or DEFAULT_GROUP_SIZE)

    def plan(self, directory: Path, config: ModelConfig, dtype: np.dtype) -> QuantizationPlan:
        """The plan for a model of this directory. Raises ConfigError for a text, and TokenizerError for a
        model without a tokenizer, before weights are read."""
        if self.calibration is None:
            return QuantizationPlan(self.scheme, dtype)
        content = read_text(self.calibration, "--calibration")
        tokenizer = Tokenizer.from_directory(directory)
        calibration = Calibration.of(content, tokenizer, config.context_length)
        scheme = self.scheme
        clip_search = ClipSearch(scheme, dtype) if isinstance(scheme, Int4Scheme) else None
        choose = choice_of_scales(scheme, dtype)
        return QuantizationPlan(scheme, dtype, calibration, choose, clip_search, self.is_static)


def choice_of_scales(scheme: Scheme, dtype: np.dtype) -> ScaleChoice | None:
    """The scales of inputs that a scheme profits from: e4m3 rounds by a share of each number, so that it has
    none."""
    match scheme:
        case Int4Scheme():
            return ActivationAwareSearch(scheme, dtype)
        case Int8Scheme():
            return smoothing_scales
    return None
