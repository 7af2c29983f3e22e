"""The costs of a model, from its parameters."""

from types import SimpleNamespace

import pytest

from jinfer.bench.opening import work_of
from jinfer.config import EngineConfig
from jinfer.loading import load_model, resolve_model
from jinfer.placement import default_placement
from jinfer.weights.params import num_bytes
from tests.tiny_model import CONFIG

WIDE = {
    **CONFIG,
    "hidden_size": 128,
    "num_attention_heads": 16,
    "intermediate_size": 128,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(("quantization", "rate"), [(None, 1), ("int4", 1), ("int8", 2), ("fp8", 2)])
def test_types_of_weights_say_how_many_bytes_and_how_fast(quantization, rate):
    config = EngineConfig(dummy_weights=True, quantization=quantization, progress=False)
    placement = default_placement()
    resolved = resolve_model(WIDE, params=None, tokenizer=None, config=config, placement=placement)
    loaded = load_model(resolved, params=None, config=config, placement=placement)

    work = work_of(SimpleNamespace(loaded=loaded, limits=resolved.chosen_limits))
    assert work.linear_rate == rate
    assert work.weight_bytes == num_bytes(loaded.params) - num_bytes(loaded.params["embedding"])
