"""What `jinfer convert --quantize` writes, read by jinfer."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize

from jinfer.cli.command import main
from jinfer.quantization import checkpoint
from jinfer.weights import safetensors_writer
from tests.checkpoints import CONFIG, TRAINING_TEXT, random_tensors, write_checkpoint
from tests.weights.formats.checkpoints import SIZES
from tests.weights.loaded import assert_same, expected, loaded

DTYPES = {
    "F32": np.float32,
    "I8": np.int8,
    "I32": np.int32,
    "I64": np.int64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
}
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Sizes that groups of 32 divide, but for the inputs of the last product."""
    config = {**CONFIG, **SIZES[64], "intermediate_size": 80}
    return write_checkpoint(tmp_path_factory.mktemp("model"), config=config, tensors=random_tensors(config))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(TRAINING_TEXT * 4))
    return path


def convert(model, out, *options):
    return main([str(word) for word in ("convert", "--model", model, *options, out)])


def stored_in(directory):
    """All tensors by name; the library's own reader gives numpy no e4m3."""
    entries = deserialize((directory / "model.safetensors").read_bytes())
    return {
        name: np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries
    }


def weights_of(directory):
    """The weights by name, computed of what is stored by the definition of the format."""
    stored = stored_in(directory)
    weights = {name: x.astype(np.float32) for name, x in stored.items() if name.endswith(".weight")}
    for name, scale in stored.items():
        module, _, leaf = name.rpartition(".")
        if leaf != "weight_scale":
            continue
        if f"{module}.weight_packed" in stored:
            words = stored[f"{module}.weight_packed"].view(np.uint32)
            codes = ((words[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15).reshape(len(words), -1)
            weights[f"{module}.weight"] = (codes.astype(np.float32) - 8) * np.repeat(scale, 32, axis=1)
        else:
            weights[f"{module}.weight"] = stored[f"{module}.weight"].astype(np.float32) * scale
    return weights


SCHEMES = {
    "int8": ("int8",),
    "int8 static": ("int8", "--static", "--calibration"),
    "fp8": ("fp8",),
    "fp8 static": ("fp8", "--static", "--calibration"),
    "int4": ("int4", "--group-size", 32),
    "int4 calibrated": ("int4", "--group-size", 32, "--calibration"),
}


@pytest.mark.parametrize("case", SCHEMES)
def test_what_is_written_stands_for_codes_times_scales(case, model, text, tmp_path):
    words = SCHEMES[case]
    options = (*words, text) if words[-1] == "--calibration" else words
    assert convert(model, tmp_path / "out", "--quantize", *options) == 0

    weights, original = weights_of(tmp_path / "out"), stored_in(model)
    assert_same(loaded(tmp_path / "out"), expected(weights))
    stored = stored_in(tmp_path / "out")
    assert (f"{Q_PROJ}.input_scale" in stored) == ("static" in case)
    assert weights.keys() == original.keys()
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        np.testing.assert_array_equal(weights[name], original[name])
    if "--calibration" not in words:
        steps = 14 if "int4" in case else 24
        for name, x in weights.items():
            assert np.abs(x - original[name]).max() <= np.abs(original[name]).max() / steps


def test_the_same_text_gives_the_same_bytes(model, text, tmp_path):
    for out in ("one", "other"):
        convert(model, tmp_path / out, "--quantize", "int4", "--group-size", 32, "--calibration", text)
    one, other = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("one", "other"))
    assert one == other


@pytest.mark.parametrize("case", ["int8", "int4", "int4 calibrated"])
def test_progress_counts_each_tensor_of_the_model_once(case, model, text, tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, label, *, total, enabled, unit):
            self.total, self.done = total, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, count):
            self.done += count

    monkeypatch.setattr(checkpoint, "progress_bar", Bar)
    words = SCHEMES[case]
    convert(model, tmp_path / "out", "--quantize", *words, *([text] if words[-1] == "--calibration" else []))
    (bar,) = bars
    assert bar.done == bar.total == len(stored_in(model))


def test_the_configuration_says_what_is_stored(model, text, tmp_path):
    convert(model, tmp_path / "out", "--quantize", "int8", "--static", "--calibration", text)
    config = json.loads((tmp_path / "out" / "config.json").read_text())

    numbers = {"num_bits": 8, "type": "int", "symmetric": True}
    assert config.pop("quantization_config") == {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**numbers, "strategy": "channel", "dynamic": False},
                "input_activations": {**numbers, "strategy": "tensor", "dynamic": False},
                "output_activations": None,
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }
    assert config == json.loads((model / "config.json").read_text())
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_modules_that_no_group_divides_are_left_and_named(model, tmp_path, capsys):
    convert(model, tmp_path / "out", "--quantize", "int4", "--group-size", 32)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]

    left = [f"model.layers.{layer}.mlp.down_proj" for layer in range(2)]
    assert config["ignore"] == ["lm_head", *left]
    reason = "80 inputs are no multiple of the group size 32"
    assert f"written as they are: {', '.join(left)} ({reason})" in capsys.readouterr().err
    original, stored = (stored_in(path) for path in (model, tmp_path / "out"))
    for name in left:
        np.testing.assert_array_equal(stored[f"{name}.weight"], original[f"{name}.weight"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("int4",), "no module can be quantized: 64 inputs are no multiple of the group size 128; 80 inputs"),
        (("int8", "--group-size", "32"), "--group-size 32 with int8, which has a scale for each output"),
        (("int4", "--static"), "--static with int4, which leaves activations as they are"),
        (("fp8", "--static"), "--static takes its scales from a text; give one to --calibration"),
        (("fp8", "--calibration", "/nowhere"), "--calibration /nowhere cannot be read"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(words, said, model, tmp_path, capsys):
    assert convert(model, tmp_path / "out", "--quantize", *words) == 1
    assert f"jinfer: error: {said}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_of_quantization_are_refused_without_it(model, tmp_path, capsys):
    assert convert(model, tmp_path / "out", "--to", "orbax", "--static") == 1
    assert "--static is of quantized checkpoints; leave it out, or give --quantize" in capsys.readouterr().err


def test_a_text_of_a_few_tokens_is_too_short(model, tmp_path, capsys):
    (tmp_path / "text").write_text("the cat")
    assert convert(model, tmp_path / "out", "--quantize", "int8", "--calibration", tmp_path / "text") == 1
    assert "the text of --calibration has" in capsys.readouterr().err


def test_a_failure_in_the_middle_leaves_nothing(model, tmp_path, monkeypatch, capsys):
    def save(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_writer, "save_file", save)
    assert convert(model, tmp_path / "out", "--quantize", "fp8") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_large_model_has_several_files(model, tmp_path, monkeypatch):
    convert(model, tmp_path / "whole", "--quantize", "fp8")
    monkeypatch.setattr(safetensors_writer, "MAX_SHARD_BYTES", 60_000)
    convert(model, tmp_path / "parts", "--quantize", "fp8")

    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    assert len(files) > 1
    assert_same(loaded(tmp_path / "parts"), loaded(tmp_path / "whole"))
    tensors = stored_in(tmp_path / "whole").values()
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors)
