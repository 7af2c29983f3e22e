"""A quantized head beside the embedding of a tied model: its values decide, as those of a plain one."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from jinfer.weights import tied_params
from jinfer.weights.formats.dequantized_tensor import DequantizedTensor, Grouping, Scales
from jinfer.weights.formats.stored_matrix import PlainMatrix
from jinfer.weights.safetensors_file import read_header
from tests.checkpoints import write_json
from tests.weights.formats.checkpoints import HEAD, SIZES, write_quantized
from tests.weights.formats.packers import Compressed
from tests.weights.loaded import assert_same, expected, loaded

EMBEDDING, WEIGHT = "model.embed_tokens.weight", f"{HEAD}.weight"
GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}
CONFIG = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"all": GROUP}}


@pytest.mark.parametrize("is_same", [True, False])
def test_values_decide_whether_there_is_a_head(is_same, tmp_path, monkeypatch):
    """Compared in pieces that begin within rows."""
    monkeypatch.setattr(tied_params, "COMPARED_BYTES", 1000)
    made = write_quantized(tmp_path, Compressed(4), CONFIG, sizes=SIZES[32], leave=())
    stored = made.weights[WEIGHT].copy()
    stored[-1, -1] += 0 if is_same else 1
    save_file({**made.tensors, EMBEDDING: stored}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {**made.config, "tie_word_embeddings": True})

    weights = {**made.weights, EMBEDDING: stored}
    if is_same:
        del weights[WEIGHT]
    assert_same(loaded(tmp_path), expected(weights, 1))


def test_a_turned_tensor_is_not_the_one_whose_bytes_it_has(tmp_path):
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    save_file({"x": square, "scale": np.ones((1, 1), np.float32)}, tmp_path / "x.safetensors")
    stored = read_header(tmp_path / "x.safetensors")
    scales = Scales(PlainMatrix(stored["scale"], (1, 1)), Grouping.of_blocks((3, 3), (3, 3)))
    same, turned = (
        DequantizedTensor(PlainMatrix(stored["x"], (3, 3)), scales, is_turned=is_turned)
        for is_turned in (False, True)
    )

    assert tied_params.have_same_values(stored["x"], same)
    assert not tied_params.have_same_values(stored["x"], turned)
