"""What is written, as transformers and the compressed-tensors package read it, live."""

import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.cli.command import main
from pallas_kernels.core.kv_pages import quantize_by
from tests.checkpoints import CONFIG, random_tensors, write_checkpoint
from tests.weights.formats.checkpoints import SIZES
from tests.weights.loaded import LAYER_NAMES, loaded

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch", reason="torch computes what is right; install jinfer[oracle]")
pytest.importorskip("transformers", reason="transformers computes what is right; install jinfer[oracle]")
pytest.importorskip("compressed_tensors", reason="it reads what is written; install jinfer[oracle]")


@pytest.mark.parametrize("name", ["int8", "fp8", "int4"])
def test_transformers_reads_the_same_weights(name, tmp_path):
    from transformers import AutoModelForCausalLM

    config = {**CONFIG, **SIZES[128], "num_hidden_layers": 1, "model_type": "llama"}
    write_checkpoint(tmp_path / "model", config=config, tensors=random_tensors(config))
    words = ("convert", "--model", tmp_path / "model", "--quantize", name, tmp_path / "out")
    assert main([str(word) for word in words]) == 0

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        model(torch.tensor([[5, 17, 3]]))  # which decompresses
    theirs = {name: x.float().numpy() for name, x in model.state_dict().items()}
    ours = loaded(tmp_path / "out")
    for path, names in LAYER_NAMES.items():
        whole = np.concatenate([theirs[f"model.layers.0.{each}.weight"].T for each in names], axis=-1)
        np.testing.assert_array_equal(ours[path][0], whole, err_msg=path)


@pytest.mark.parametrize(
    ("kind", "dtype", "theirs"), [("int", jnp.int8, "int8"), ("float", jnp.float8_e4m3fn, "float8_e4m3fn")]
)
def test_calibrated_scales_of_a_cache_quantize_as_compressed_tensors_does(kind, dtype, theirs):
    """Bit for bit, also what is beyond the largest."""
    from compressed_tensors.quantization import QuantizationArgs, quantize

    x = np.random.default_rng(0).standard_normal((64, 2, 16), np.float32)
    x *= np.logspace(-3, 1, 64, dtype=np.float32)[:, None, None]
    scale, torch_dtype = np.full(1, 0.013, np.float32), getattr(torch, theirs)
    args = QuantizationArgs(num_bits=8, type=kind, strategy="tensor", symmetric=True, dynamic=False)
    zero = torch.zeros(1, dtype=torch_dtype)
    wanted = quantize(torch.from_numpy(x), torch.from_numpy(scale), zero, args, dtype=torch_dtype)
    values, _ = quantize_by(jnp.asarray(x), jnp.asarray(scale), jnp.dtype(dtype))
    np.testing.assert_array_equal(np.asarray(values).view(np.int8), wanted.view(torch.int8).numpy())
