"""Where a model may come from."""

import logging

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jinfer
from jinfer import LLM, CheckpointError
from jinfer.models.registry import read_model_config
from jinfer.weights.params import flatten, unflatten
from tests.checkpoints import (
    CONFIG,
    EOS_ID,
    TINY_ENGINE,
    write_checkpoint,
)
from tests.end_to_end.llm.helpers import GREEDY, RANDOM, TEXT, aligned_copy, first_ids, live_bytes


class TestSources:
    def test_the_one_liner(self, llm, directory):
        options = dict(TINY_ENGINE, **GREEDY)
        # Before memory is measured: the shared engine keeps what it was sent.
        expected = first_ids(llm, TEXT, **GREEDY)
        # JAX keeps a constant of the first call in a process.
        jinfer.generate(TEXT, model=directory, **options)
        before = live_bytes()
        (output,) = jinfer.generate(TEXT, model=directory, **options)

        assert output.outputs[0].token_ids == expected
        assert live_bytes() == before

    def test_a_directory_may_be_a_string(self, directory, llm):
        with LLM(str(directory), **TINY_ENGINE) as other:
            assert first_ids(other, TEXT, **GREEDY) == first_ids(llm, TEXT, **GREEDY)

    def test_params_in_memory_are_served_as_they_are(self, llm, params):
        expected = first_ids(llm, [5, 6, 7], **GREEDY)
        for config in (CONFIG, read_model_config(CONFIG)):
            with LLM(config, params=params, **TINY_ENGINE) as other:
                assert other.parts.loaded.params["mlp"]["down"]["kernel"] is params["mlp"]["down"]["kernel"]
                (output,) = other.generate([5, 6, 7], **GREEDY)
            assert output.outputs[0].token_ids == expected
            assert output.text == ""  # without a tokenizer

    def test_params_may_be_an_nnx_state_or_nnx_variables(self, llm, params):
        variables = jax.tree.map(nnx.Param, params)
        for given in (nnx.State(variables), variables):
            with LLM(CONFIG, params=given, **TINY_ENGINE) as other:
                assert first_ids(other, [5, 6, 7], **GREEDY) == first_ids(llm, [5, 6, 7], **GREEDY)

    def test_a_change_of_numpy_params_does_not_reach_a_running_llm(self, llm, params):
        aligned = jax.tree.map(aligned_copy, params)
        with LLM(CONFIG, params=aligned, **TINY_ENGINE) as other:
            for x in jax.tree.leaves(aligned):
                x[:] = 0
            assert first_ids(other, [5, 6, 7], **GREEDY) == first_ids(llm, [5, 6, 7], **GREEDY)

    @pytest.mark.parametrize(("given", "served"), [("bfloat16", "float32"), ("float32", "bfloat16")])
    def test_params_are_converted_to_the_dtype_that_is_served(self, params, given, served):
        cast = jax.tree.map(lambda x: x.astype(given), params)
        by_hand = jax.tree.map(lambda x: x.astype(served), cast)
        with LLM(CONFIG, params=cast, **{**TINY_ENGINE, "dtype": served}) as llm:
            assert {x.dtype for x in jax.tree.leaves(llm.parts.loaded.params)} == {jnp.dtype(served)}
            tokens = first_ids(llm, [5, 6, 7], **GREEDY)
        with LLM(CONFIG, params=by_hand, **{**TINY_ENGINE, "dtype": served}) as llm:
            assert first_ids(llm, [5, 6, 7], **GREEDY) == tokens

    def test_params_that_do_not_fit_are_named(self, params):
        flat = dict(flatten(params))
        flat["mlp/extra"] = flat.pop("mlp/down/kernel")
        flat["head/kernel"] = flat["head/kernel"][:-1]
        flat["final_norm/scale"] = None
        with pytest.raises(CheckpointError) as caught:
            LLM(CONFIG, params=unflatten(flat), **TINY_ENGINE)

        for part in (
            "mlp/down/kernel is missing",
            "mlp/extra is not a parameter of the model",
            "head/kernel has shape (299, 32), the model needs (300, 32)",
            "final_norm/scale has shape (), the model needs (1, 32)",
        ):
            assert part in str(caught.value)

    def test_dummy_weights_need_a_config_alone(self):
        with LLM(CONFIG, dummy_weights=True, **TINY_ENGINE) as llm:
            tokens = first_ids(llm, [5, 6, 7], **GREEDY)
        with LLM(CONFIG, dummy_weights=True, dummy_weights_seed=1, **TINY_ENGINE) as llm:
            assert first_ids(llm, [5, 6, 7], **GREEDY) != tokens

    def test_sampling_defaults_of_the_model_are_said_and_taken_for_what_is_not_given(
        self, llm, tmp_path, caplog
    ):
        directory = write_checkpoint(
            tmp_path, generation_config={"temperature": 0.8, "top_k": 1, "do_sample": True}
        )
        with caplog.at_level(logging.INFO, logger="jinfer"), LLM(directory, **TINY_ENGINE) as other:
            by_default = first_ids(other, TEXT, max_tokens=12, ignore_eos=True)
            given = first_ids(other, TEXT, **RANDOM, top_k=0)
            partly = first_ids(other, TEXT, **RANDOM)

        assert "sampling defaults from generation_config.json: temperature=0.8, top_k=1" in caplog.text
        assert by_default == partly == first_ids(llm, TEXT, **GREEDY)
        assert given == first_ids(llm, TEXT, **RANDOM)

    def test_a_model_without_defaults_says_nothing_of_them(self, directory, caplog):
        with caplog.at_level(logging.INFO, logger="jinfer"), LLM(directory, **TINY_ENGINE):
            assert "sampling defaults" not in caplog.text
            assert "ready in" in caplog.text

    def test_the_end_of_sequence_is_that_of_generation_config_and_of_the_tokenizer(self, tmp_path):
        directory = write_checkpoint(tmp_path, generation_config={"eos_token_id": [7, 8]})
        with LLM(directory, **TINY_ENGINE) as llm:
            assert llm.parts.loaded.eos_token_ids == {EOS_ID, 7, 8}

    def test_another_tokenizer_may_be_given(self, directory, tmp_path):
        bare = write_checkpoint(tmp_path, tokenizer=False)
        with LLM(bare, tokenizer=directory, **TINY_ENGINE) as llm:
            assert llm.generate(TEXT, **GREEDY)[0].prompt_token_ids == tuple(llm.tokenizer.encode(TEXT))
