"""Checkpoints that have several projections in one tensor, plain and quantized: jinfer has them side by side
anyway."""

import numpy as np
import pytest

from jinfer.cli.command import main
from tests.checkpoints import CONFIG, TRAINING_TEXT, joined_tensors, random_tensors, write_checkpoint
from tests.models.configs import LLAMA
from tests.quantization.test_checkpoint import SCHEMES
from tests.weights.formats.checkpoints import SIZES
from tests.weights.loaded import as_floats, assert_same, expected, loaded, raised
from tests.weights.test_served_types import FORMATS, params_of

PHI3 = {**CONFIG, **SIZES[128], "architectures": ["Phi3ForCausalLM"]}
TENSORS = random_tensors(PHI3)
QUANTIZED_PARTS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def test_they_fill_the_columns_that_the_separate_ones_would(tmp_path):
    write_checkpoint(tmp_path, config=PHI3, tensors=joined_tensors(TENSORS), tokenizer=False)
    assert_same(loaded(tmp_path), expected(TENSORS))


def test_separate_tensors_are_not_those_of_a_family_that_joins_them(tmp_path):
    write_checkpoint(tmp_path, config=PHI3, tensors=TENSORS, tokenizer=False)
    message = raised(tmp_path)
    assert "model.layers.0.self_attn.qkv_proj.weight is missing" in message
    assert "model.layers.0.self_attn.q_proj.weight is not a tensor of the model" in message


def test_a_tensor_of_another_number_of_outputs_is_refused(tmp_path):
    name = "model.layers.1.self_attn.qkv_proj.weight"
    tensors = joined_tensors(TENSORS)
    tensors[name] = tensors[name][:-1]
    write_checkpoint(tmp_path, config=PHI3, tensors=tensors, tokenizer=False)
    assert f"{name} has shape (255, 128), the model needs (256, 128)" in raised(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_quantized_ones_are_served_in_their_type(name, tmp_path):
    pack, quantization, kind, _ = FORMATS[name]
    rng, stored, weights = np.random.default_rng(3), {}, {}
    for tensor, x in joined_tensors(TENSORS).items():
        module = tensor.removesuffix(".weight")
        if not module.endswith(QUANTIZED_PARTS):
            stored[tensor] = weights[tensor] = x
            continue
        made = pack(rng, *x.shape)
        weights[tensor] = made.weight
        stored |= {f"{module}.{leaf}": array for leaf, array in made.tensors.items()}
    config = {**PHI3, "quantization_config": quantization}
    write_checkpoint(tmp_path, config=config, tensors=stored, tokenizer=False)

    params = params_of(tmp_path)

    for path, module in (("attention/qkv", "self_attn.qkv_proj"), ("mlp/gate_up", "mlp.gate_up_proj")):
        kernel = params[f"{path}/kernel"]
        assert isinstance(kernel, kind)
        wanted = np.stack([weights[f"model.layers.{i}.{module}.weight"].T for i in range(2)])
        np.testing.assert_allclose(as_floats(kernel), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_convert_writes_of_them_is_what_it_writes_of_separate_ones(scheme, tmp_path):
    """Also where norms and projections take in the scales that a text is calibrated by."""
    (tmp_path / "text").write_text(" ".join(TRAINING_TEXT * 4))
    options = [*SCHEMES[scheme], *([tmp_path / "text"] if SCHEMES[scheme][-1] == "--calibration" else [])]
    written = []
    for config, tensors in ((PHI3, joined_tensors(TENSORS)), ({**PHI3, "architectures": [LLAMA]}, TENSORS)):
        (architecture,) = config["architectures"]
        model = write_checkpoint(tmp_path / architecture, config=config, tensors=tensors)
        out = tmp_path / f"quantized {architecture}"
        command = ["convert", "--model", model, "--quantize", *options, out]
        assert main([str(word) for word in command]) == 0
        written.append(loaded(out))
    assert_same(*written)
