"""`jinfer generate --json`: one object a line."""

import dataclasses
import itertools
import json
import math

import pytest

from jinfer import RequestOutput
from jinfer.cli.output import json_line
from jinfer.execution.executor import Executor
from tests.checkpoints import BOS_ID, CONFIG, write_json
from tests.end_to_end.cli.helpers import (
    ENGINE,
    GREEDY,
    GREEDY_OPTIONS,
    IDS,
    OTHER_TEXT,
    RANDOM,
    RANDOM_OPTIONS,
    TEXT,
    command_line,
)


def test_one_object_a_line_for_each_prompt(generate, llm):
    prompts = [TEXT, OTHER_TEXT, IDS]
    finished = generate(*command_line(prompts), "--json", *GREEDY)

    assert finished.status == 0
    for printed, output in zip(finished.objects, llm.generate(prompts, **GREEDY_OPTIONS), strict=True):
        (completion,) = output.outputs
        assert printed["text"] == completion.text
        assert printed["token_ids"] == list(completion.token_ids)
        assert printed["prompt"] == output.prompt
        assert printed["prompt_token_ids"] == list(output.prompt_token_ids)
        assert (printed["finish_reason"], printed["stop_reason"], printed["error"]) == (
            "length",
            None,
            None,
        )
        assert "outputs" not in printed
        timings = printed["timings"]
        assert timings["num_output_tokens"] == 12
        assert 0 < timings["time_to_first_token_s"] < timings["latency_s"]
        assert timings["output_tokens_per_s"] == pytest.approx(12 / timings["latency_s"])


def test_several_completions_are_under_outputs(generate, llm):
    (printed,) = generate("--prompt", TEXT, "--n", "2", "--json", *RANDOM).objects

    expected = [list(c.token_ids) for c in llm.generate(TEXT, n=2, **RANDOM_OPTIONS)[0].outputs]
    assert [completion["token_ids"] for completion in printed["outputs"]] == expected
    assert printed["token_ids"] == expected[0]


def test_logprobs_are_by_token_id(generate):
    (printed,) = generate("--prompt", TEXT, "--logprobs", "2", "--json", *GREEDY).objects

    assert len(printed["logprobs"]) == 12
    assert all(str(i) in entry for i, entry in zip(printed["token_ids"], printed["logprobs"], strict=True))
    assert printed["cumulative_logprob"] < 0


def test_an_empty_prompt_is_the_bos_token_alone(generate):
    (printed,) = generate("--prompt", "", "--json", *GREEDY).objects

    assert printed["prompt_token_ids"] == [BOS_ID]
    assert len(printed["token_ids"]) == 12


@pytest.mark.parametrize(
    ("fault", "status", "line"),
    [
        (RuntimeError("the device fell over"), 1, "jinfer: error: the engine failed"),
        (KeyboardInterrupt(), 130, "jinfer: interrupted"),
    ],
)
def test_what_had_ended_is_printed_after_a_fault_or_ctrl_c(generate, llm, monkeypatch, fault, status, line):
    """Two of three prompts run at a time, and the fault comes while the third does."""
    dispatch, num_steps = Executor.dispatch, itertools.count(1)

    def failing(executor, plan):
        if next(num_steps) == 18:
            raise fault
        return dispatch(executor, plan)

    prompts = [TEXT, OTHER_TEXT, IDS]
    expected = [list(output.outputs[0].token_ids) for output in llm.generate(prompts, **GREEDY_OPTIONS)]
    monkeypatch.setattr(Executor, "dispatch", failing)
    finished = generate(*command_line(prompts), "--json", *GREEDY)

    assert [printed["token_ids"] for printed in finished.objects] == expected[:2]
    assert finished.status == status
    assert line in finished.stderr


def test_an_automatic_context_is_what_the_pages_hold_and_the_start_says_what_went_where(start):
    finished = start("--prompt-token-ids", "5,6,7", "--max-model-len", "auto", "--num-pages", "6", "--json")

    (printed,) = finished.objects
    assert len(printed["token_ids"]) == 5 * 4 - len(IDS) or printed["finish_reason"] == "stop"
    assert "memory: " in finished.stderr
    assert "= 20 tokens in 6 pages of 4; context 20\n" in finished.stderr


def test_dummy_weights_need_a_config_alone(run, tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    finished = run(
        "generate",
        "--model",
        tmp_path,
        *ENGINE,
        "--dummy-weights",
        "--prompt-token-ids",
        "5,6,7",
        "--json",
        *GREEDY,
    )

    assert finished.status == 0
    (printed,) = finished.objects
    assert len(printed["token_ids"]) == 12
    assert printed["prompt_token_ids"] == IDS
    assert printed["text"] == ""


@pytest.fixture
def completed(llm) -> RequestOutput:
    return llm.generate(TEXT, **GREEDY_OPTIONS)[0]


def test_numbers_that_json_lacks_are_null(completed):
    (first,) = completed.outputs
    odd = dataclasses.replace(first, cumulative_logprob=-math.inf, logprobs=({5: math.nan, 6: -0.5},))
    line = json_line(dataclasses.replace(completed, outputs=(odd,)), "utf-8")

    printed = json.loads(line, parse_constant=pytest.fail)
    assert (printed["cumulative_logprob"], printed["logprobs"]) == (None, [{"5": None, "6": -0.5}])


def test_an_object_is_one_line_by_every_rule(completed):
    text = "a\nb\rc\x85d\u2028e\u2029f\x0bg\x1ch😀"
    (first,) = completed.outputs
    line = json_line(
        dataclasses.replace(completed, outputs=(dataclasses.replace(first, text=text),)), "utf-8"
    )

    assert line.splitlines() == [line]
    assert "😀" in line
    assert json.loads(line)["text"] == text
