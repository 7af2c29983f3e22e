"""Quantized checkpoints give the greedy tokens of the same model whose weights are stored as floats."""

import json
from functools import partial

import pytest

from jinfer import LLM
from jinfer.cli.command import main
from tests.checkpoints import TINY_ENGINE, write_checkpoint
from tests.weights.formats.checkpoints import SIZES, write_quantized
from tests.weights.formats.packers import (
    Compressed,
    Gptq,
    InputOrder,
    awq,
    fp8,
    mxfp4_blocks,
    mxfp4_packed,
)

PROMPT, NUM_TOKENS = [5, 17, 3, 88, 41], 8
GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}
MXFP4_GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 32}}
FORMATS = {
    "awq": (partial(awq, group_size=32), {"bits": 4, "group_size": 32}),
    "gptq": (Gptq(desc_act=True, order=InputOrder()), {"bits": 4, "group_size": 32}),
    "gptq of 8 bits": (Gptq(8, desc_act=True, order=InputOrder()), {"bits": 8, "group_size": 32}),
    "compressed-tensors": (
        Compressed(4),
        {"format": "pack-quantized", "config_groups": {"group_0": GROUP}, "ignore": ["lm_head"]},
    ),
    "fp8": (partial(fp8, block=(64, 64)), {"weight_block_size": [64, 64]}),
    "mxfp4": (mxfp4_blocks, {}),
    "mxfp4 of compressed-tensors": (
        mxfp4_packed,
        {
            "quant_method": "compressed-tensors",
            "format": "mxfp4-pack-quantized",
            "config_groups": {"group_0": MXFP4_GROUP},
            "ignore": ["lm_head"],
        },
    ),
}


def tokens(directory):
    with LLM(directory, **TINY_ENGINE) as llm:
        output = llm.generate(PROMPT, temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)[0].outputs[0]
    return list(output.token_ids)


@pytest.mark.parametrize("method", FORMATS)
def test_the_tokens_are_those_of_the_dequantized_weights(method, tmp_path):
    pack, entries = FORMATS[method]
    given = {"quant_method": method.partition(" ")[0], **entries}
    made = write_quantized(tmp_path / "packed", pack, given, sizes=SIZES[32], tokenizer=True)
    config = {name: value for name, value in made.config.items() if name != "quantization_config"}
    write_checkpoint(tmp_path / "plain", config=config, tensors=made.weights)

    found = tokens(tmp_path / "packed")
    assert found == tokens(tmp_path / "plain")
    assert len(set(found)) > 1


def test_what_is_converted_has_plain_weights_and_says_so(tmp_path):
    pack, entries = FORMATS["awq"]
    given = {"quant_method": "awq", **entries}
    made = write_quantized(tmp_path / "packed", pack, given, sizes=SIZES[32], tokenizer=True)
    command = ["convert", "--model", str(tmp_path / "packed"), "--to", "orbax", str(tmp_path / "plain")]
    assert main([*command, "--dtype", "float32"]) == 0

    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config == {name: value for name, value in made.config.items() if name != "quantization_config"}
    assert tokens(tmp_path / "plain") == tokens(tmp_path / "packed")
