"""What of generation_config.json is applied, left out, or said."""

import logging
from pathlib import Path
from typing import Any

import pytest

from jinfer.errors import UnsupportedModelError
from jinfer.generation_config import GenerationConfig
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import EOS_ID, tiny_tokenizer, write_json

VOCAB_SIZE = 64


def config(**entries: Any) -> GenerationConfig:
    return GenerationConfig(entries, "generation_config.json")


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO, **entries: Any) -> str:
    """What reading a file with these entries says, from a level on."""
    caplog.clear()
    with caplog.at_level(level, logger="jinfer"):
        config(**entries).say_what_is_not_applied()
        config(**entries).sampling_defaults()
    return caplog.text


# --- the file


def test_without_the_file_its_entries_are_those_of_config_json(tmp_path: Path) -> None:
    raw = {"temperature": 0.5, "eos_token_id": 3}
    assert GenerationConfig.of(tmp_path, raw).sampling_defaults() == {"temperature": 0.5}
    assert GenerationConfig.of(None, raw).sampling_defaults() == {"temperature": 0.5}
    write_json(tmp_path / "generation_config.json", {"top_p": 0.9})
    with_file = GenerationConfig.of(tmp_path, raw)
    assert with_file.sampling_defaults() == {"top_p": 0.9}
    assert with_file.eos_token_ids(raw, None, VOCAB_SIZE) == {3}


@pytest.mark.oracle
def test_transformers_reads_config_json_where_the_file_is_missing_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    entries = {
        "repetition_penalty": 1.3,
        "temperature": 0.5,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **entries)).save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "llama", **sizes, **entries})
    (tmp_path / "generation_config.json").unlink()
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert (read.repetition_penalty, read.temperature) == (1.3, 0.5)


# --- sampling defaults


def test_defaults_are_said(caplog) -> None:
    assert "sampling defaults from generation_config.json: temperature=0.6, top_k=20" in said(
        caplog, temperature=0.6, top_k=20, do_sample=True
    )


def test_a_repetition_penalty_is_a_default_as_in_transformers(caplog) -> None:
    assert config(repetition_penalty=1.05).sampling_defaults() == {"repetition_penalty": 1.05}
    assert "repetition_penalty=1.05" in said(caplog, repetition_penalty=1.05)


def test_defaults_that_change_nothing_are_not_said(caplog) -> None:
    assert said(caplog, temperature=1.0, top_p=1, top_k=0, min_p=0.0, repetition_penalty=1.0) == ""


def test_defaults_hold_whatever_do_sample_says_and_that_is_said(caplog) -> None:
    assert config(temperature=0.6, do_sample=False).sampling_defaults() == {"temperature": 0.6}
    assert "do_sample=False: ask for temperature=0" in said(caplog, temperature=0.6, do_sample=False)
    assert said(caplog, do_sample=False) == ""


@pytest.mark.parametrize(
    "entry",
    [
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": "0.9"},
        {"top_p": True},
        {"temperature": 3},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": [0.7]},
        {"top_k": -5},
        {"top_k": 50.0},
        {"top_k": "50"},
        {"min_p": -0.1},
        {"min_p": 2},
        {"min_p": {}},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": "1.3"},
    ],
)
def test_a_default_that_no_request_could_ask_for_is_left_out_with_a_warning(entry: dict, caplog) -> None:
    (name,) = entry
    good = {"temperature": 0.5} if name != "temperature" else {"top_k": 7}
    assert config(**entry, **good).sampling_defaults() == good
    warning = said(caplog, logging.WARNING, **entry, **good)
    assert f"{name}={entry[name]!r}" in warning
    assert "left out" in warning


# --- what is not applied

NOT_APPLIED = {
    "encoder_repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "num_beams": 4,
    "bad_words_ids": [[1, 2]],
    "suppress_tokens": [5],
    "begin_suppress_tokens": [5, 6],
    "forced_bos_token_id": 0,
    "forced_eos_token_id": [2],
    "force_words_ids": [[3]],
    "constraints": [1],
    "min_length": 10,
    "min_new_tokens": 4,
    "exponential_decay_length_penalty": [5, 1.1],
    "sequence_bias": [[[1], 2.0]],
    "guidance_scale": 1.5,
    "watermarking_config": {"bias": 2.0},
    "token_healing": True,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
}
OTHERS = {
    "typical_p": 0.9,
    "epsilon_cutoff": 1e-3,
    "eta_cutoff": 1e-3,
    "top_h": 0.4,
    "max_length": 4096,
    "max_new_tokens": 2048,
    "max_time": 1.0,
    "stop_strings": ["###"],
    "num_return_sequences": 2,
    "remove_invalid_values": True,
    "cache_implementation": "quantized",
}


@pytest.mark.parametrize("name", NOT_APPLIED)
def test_what_changes_greedy_tokens_is_a_warning(name: str, caplog) -> None:
    message = said(caplog, logging.WARNING, **{name: NOT_APPLIED[name]})
    assert f"{name}={NOT_APPLIED[name]!r}" in message
    assert "greedy tokens differ" in message


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_sampled_tokens_or_the_end_is_said(name: str, caplog) -> None:
    assert f"{name}={OTHERS[name]!r}" in said(caplog, **{name: OTHERS[name]})
    assert said(caplog, logging.WARNING, **{name: OTHERS[name]}) == ""


@pytest.mark.parametrize("value", ["1.3", [1.3], -1, 0.0])
def test_a_value_of_any_type_that_is_not_neutral_is_said(value: Any, caplog) -> None:
    assert f"encoder_repetition_penalty={value!r}" in said(caplog, encoder_repetition_penalty=value)


def test_what_is_for_beams_is_said_beside_them_alone(caplog) -> None:
    of_beams = {"length_penalty": 2.0, "early_stopping": True, "num_beam_groups": 2, "diversity_penalty": 0.5}
    assert said(caplog, **of_beams) == ""
    message = said(caplog, num_beams=4, **of_beams)
    assert all(name in message for name in of_beams)


def test_neutral_entries_are_not_said(caplog) -> None:
    neutral = {
        "encoder_repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "bad_words_ids": None,
        "min_length": 0,
        "suppress_tokens": [],
        "guidance_scale": 1,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "do_sample": True,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "transformers_version": "5.24.0",
        "length_penalty": 1.0,
        "num_return_sequences": 1,
        "cache_implementation": "static",
        "penalty_alpha": None,
        "_from_model_config": True,
        "renormalize_logits": True,
        "output_scores": False,
        "stop_strings": None,
    }
    assert said(caplog, **neutral) == ""


def test_a_long_value_is_cut(caplog) -> None:
    assert len(said(caplog, suppress_tokens=list(range(10_000)))) < 1000


# --- the end of sequence


def tokenizer(tmp_path: Path) -> Tokenizer:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<|eos|>"})
    return Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("generation", "raw", "expected"),
    [
        ({}, {}, set()),
        ({"eos_token_id": 2}, {}, {2}),
        ({"eos_token_id": [2, 3]}, {"eos_token_id": 5}, {2, 3}),
        ({}, {"eos_token_id": [5, 6]}, {5, 6}),
        ({"eos_token_id": None}, {"eos_token_id": 5}, set()),
        ({"eos_token_id": list(range(20))}, {}, set(range(20))),
    ],
)
def test_ids_are_of_generation_config_and_else_of_config(
    generation: dict, raw: dict, expected: set[int]
) -> None:
    assert config(**generation).eos_token_ids(raw, None, VOCAB_SIZE) == expected


@pytest.mark.parametrize("outside", [VOCAB_SIZE, VOCAB_SIZE + 1, 10**12, -1])
def test_an_id_outside_the_vocabulary_is_left_out_with_a_warning(outside: int, caplog) -> None:
    assert config(eos_token_id=[2, outside]).eos_token_ids({}, None, VOCAB_SIZE) == {2}
    assert f"generation_config.json names eos_token_id {outside}, outside the vocabulary of 64" in caplog.text
    assert config().eos_token_ids({"eos_token_id": outside}, None, VOCAB_SIZE) == frozenset()
    assert f"config.json names eos_token_id {outside}" in caplog.text


def test_the_tokenizers_own_is_left_out_as_well(tmp_path: Path, caplog) -> None:
    text = tokenizer(tmp_path)
    assert config(eos_token_id=0).eos_token_ids({}, text, VOCAB_SIZE) == {0, EOS_ID}
    assert config(eos_token_id=0).eos_token_ids({}, text, EOS_ID) == {0}
    assert f"the tokenizer names eos_token_id {EOS_ID}" in caplog.text


@pytest.mark.parametrize("value", ["2", 2.0, True, [2, "3"], [[2]], {"id": 2}, [None]])
def test_what_is_no_id_is_refused(value: Any) -> None:
    for generation, raw, file in (
        ({"eos_token_id": value}, {}, "generation_config"),
        ({}, {"eos_token_id": value}, ""),
    ):
        with pytest.raises(UnsupportedModelError, match=f"{file}.*eos_token_id") as caught:
            config(**generation).eos_token_ids(raw, None, VOCAB_SIZE)
        assert repr(value) in str(caught.value)
