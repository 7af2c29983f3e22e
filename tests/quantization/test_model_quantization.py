"""What the search for clipped scales is given."""

import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.models.registry import build_model, read_model_config
from jinfer.quantization.calibration import Calibration
from jinfer.quantization.clip_search import ClipSearch
from jinfer.quantization.model_quantization import ModelQuantization, QuantizationPlan
from jinfer.quantization.options import QuantizeOptions
from jinfer.quantization.schemes import Int4Scheme
from tests.checkpoints import CONFIG as CHECKPOINT_CONFIG
from tests.checkpoints import TRAINING_TEXT, random_tensors, write_checkpoint
from tests.tiny_model import CONFIG, random_params

FLOAT32 = np.dtype(np.float32)
SCHEME = Int4Scheme(8)
MODEL = build_model(read_model_config(CONFIG), jnp.dtype("float32"), "xla")


@pytest.fixture
def plan_of(tmp_path):
    """The plan of `jinfer convert --quantize`, with a text."""
    (tmp_path / "text").write_text(" ".join(TRAINING_TEXT * 4))
    config = {**CHECKPOINT_CONFIG, "num_hidden_layers": 1}
    model = write_checkpoint(tmp_path / "model", config=config, tensors=random_tensors(config))

    def plan(name, calibration=True):
        options = QuantizeOptions(name, calibration=tmp_path / "text" if calibration else None)
        return options.plan(model, read_model_config(config), FLOAT32)

    return plan


def test_four_bits_of_a_text_are_searched_for_clipping(plan_of):
    assert plan_of("int4").clip_search == ClipSearch(Int4Scheme(128), FLOAT32)
    assert plan_of("int4", calibration=False).clip_search is None
    assert plan_of("int8").clip_search is None


class Recorded(ClipSearch):
    """A search that keeps the products of the weights and the inputs that it is given, in their order."""

    def __init__(self):
        super().__init__(SCHEME, FLOAT32)
        object.__setattr__(self, "products", [])

    def quantize(self, w, rows):
        self.products.append(rows @ w.T)
        return super().quantize(w, rows)


def some_scales(kernel, inputs, fold):
    return fold.mean(np.random.default_rng(1).uniform(0.25, 4, len(kernel)).astype(np.float32))


def products(choose_scales):
    search = Recorded()
    windows = Calibration((tuple(range(1, 17)), tuple(range(20, 29))))
    plan = QuantizationPlan(SCHEME, FLOAT32, windows, choose_scales, search)
    names = [name for name, _ in ModelQuantization(MODEL, random_params(), plan).tensors()]
    modules = [name.removesuffix(".weight_packed") for name in names if name.endswith(".weight_packed")]
    return dict(zip(modules, search.products, strict=True))


@pytest.mark.parametrize("projection", ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"])
def test_the_inputs_are_those_of_the_weight_with_its_scales(projection):
    """What is folded into v_proj and up_proj also changes their outputs: they are left out."""
    whole, scaled = products(None), products(some_scales)
    named = [name for name in whole if name.endswith(projection)]
    assert len(named) == len(MODEL.config.layers)
    for name in named:
        np.testing.assert_allclose(
            scaled[name], whole[name], rtol=1e-3, atol=1e-3 * np.abs(whole[name]).max()
        )
