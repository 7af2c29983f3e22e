"""The command line: results on stdout and nothing else, the rest on stderr, and an exit status that tells."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jinfer import LLM, cli
from jinfer.engine import Engine
from tests.checkpoints import (
    BOS_ID,
    CONFIG,
    CONTEXT,
    TINY_ENGINE,
    random_tensors,
    write_checkpoint,
    write_json,
)

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE = ("--dtype", "float32", "--page-size", "4", "--max-num-seqs", "2", "--max-num-batched-tokens", "16")
GREEDY = ("--temperature", "0", "--max-tokens", "12", "--ignore-eos")
RANDOM = ("--temperature", "1", "--max-tokens", "12", "--ignore-eos", "--seed", "7")
GREEDY_OPTIONS = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
RANDOM_OPTIONS = {"temperature": 1.0, "max_tokens": 12, "ignore_eos": True, "seed": 7}
TEXT, OTHER_TEXT, IDS = "the cat sat", "once upon a time", [5, 6, 7]


class Finished(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def objects(self) -> list[dict]:
        """What --json printed, one object a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llm(directory) -> Iterator[LLM]:
    """What the command's results are compared with."""
    with LLM(directory, **TINY_ENGINE) as llm:
        yield llm


@pytest.fixture
def run(capsys):
    """Runs the command in this process."""

    def run(*arguments: str | Path) -> Finished:
        status = cli.main([str(argument) for argument in arguments])
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def generate(run, directory):
    """`jinfer generate` with the tiny model."""
    return lambda *arguments: run("generate", "--model", directory, *ENGINE, *arguments)


def command_line(prompts: Sequence[str | list[int]]) -> list[str]:
    return [
        word
        for prompt in prompts
        for word in (
            ("--prompt", prompt) if isinstance(prompt, str) else ("--prompt-token-ids", ",".join(map(str, prompt)))
        )
    ]


def test_the_engine_options_reach_the_engine(generate, monkeypatch):
    """The last word before anything is loaded."""
    given = {}
    monkeypatch.setattr("jinfer.cli.generate.LLM", lambda model, **options: given.update(options) or sys.exit(7))
    with pytest.raises(SystemExit, match="7"):
        generate("--prompt", TEXT)
    names = ("scheduling_policy", "overlap", "prefix_caching")
    assert [given[name] for name in names] == ["mixed", True, True]
    with pytest.raises(SystemExit, match="7"):
        generate("--prompt", TEXT, "--scheduling-policy", "decode_first", "--no-overlap", "--no-prefix-caching")
    assert [given[name] for name in names] == ["decode_first", False, False]


class TestText:
    def test_stdout_has_the_text_and_nothing_else(self, generate, llm):
        finished = generate("--prompt", TEXT, *GREEDY)

        assert finished.status == 0
        assert finished.stdout == llm.generate(TEXT, **GREEDY_OPTIONS)[0].text  # no line feed either
        assert "12 tokens in " in finished.stderr
        assert "tokens/s, first token after" in finished.stderr
        assert "ready in" in finished.stderr

    def test_echo_prints_the_prompt_before_its_completion(self, generate, llm):
        finished = generate("--prompt", TEXT, "--prompt-token-ids", "5,6,7", "--echo", *GREEDY)

        text, ids = (output.text for output in llm.generate([TEXT, IDS], **GREEDY_OPTIONS))
        assert finished.stdout == f"{TEXT}{text}\n{llm.tokenizer.decode(IDS)}{ids}"

    def test_several_prompts_are_printed_in_order_with_a_line_feed_between(self, generate, llm):
        prompts = [TEXT, OTHER_TEXT, "rain", IDS]  # twice as many as run at a time
        finished = generate(*command_line(prompts), *RANDOM)

        outputs = llm.generate(prompts, **RANDOM_OPTIONS)
        assert finished.stdout == "\n".join(output.text for output in outputs)
        assert "48 tokens in " in finished.stderr

    def test_n_completions_follow_their_prompt(self, generate, llm):
        finished = generate("--prompt", TEXT, "--prompt", OTHER_TEXT, "--n", "2", *RANDOM)

        outputs = llm.generate([TEXT, OTHER_TEXT], n=2, **RANDOM_OPTIONS)
        assert finished.stdout == "\n".join(c.text for output in outputs for c in output.outputs)

    def test_the_options_reach_the_sampler(self, generate, llm):
        words = (
            "--top-p",
            "0.9",
            "--top-k",
            "20",
            "--min-p",
            "0.01",
            "--min-tokens",
            "3",
            "--stop",
            "a",
            "--stop",
            "e",
        )
        finished = generate("--prompt", TEXT, *words, *RANDOM)

        options = {"top_p": 0.9, "top_k": 20, "min_p": 0.01, "min_tokens": 3, "stop": ["a", "e"]}
        assert finished.stdout == llm.generate(TEXT, **options, **RANDOM_OPTIONS)[0].text

    def test_logging_is_left_as_it_was(self, generate):
        logger = logging.getLogger("jinfer")
        before = logger.level, logger.propagate, list(logger.handlers)
        generate("--prompt", TEXT, *GREEDY)

        assert (logger.level, logger.propagate, list(logger.handlers)) == before

    def test_a_new_process(self, directory, llm):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        process = subprocess.run(
            [sys.executable, "-m", "jinfer", "generate", "--model", directory, *ENGINE, "--prompt", TEXT, *GREEDY],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            timeout=300,
        )

        assert process.returncode == 0, process.stderr.decode()
        assert process.stdout.decode() == llm.generate(TEXT, **GREEDY_OPTIONS)[0].text
        assert "tokens/s" in process.stderr.decode()


class TestJson:
    def test_one_object_a_line_for_each_prompt(self, generate, llm):
        prompts = [TEXT, OTHER_TEXT, IDS]
        finished = generate(*command_line(prompts), "--json", *GREEDY)

        assert finished.status == 0
        for printed, output in zip(finished.objects, llm.generate(prompts, **GREEDY_OPTIONS), strict=True):
            (completion,) = output.outputs
            assert printed["text"] == completion.text
            assert printed["token_ids"] == list(completion.token_ids)
            assert printed["prompt"] == output.prompt
            assert printed["prompt_token_ids"] == list(output.prompt_token_ids)
            assert (printed["finish_reason"], printed["stop_reason"], printed["error"]) == ("length", None, None)
            assert "outputs" not in printed
            timings = printed["timings"]
            assert timings["num_output_tokens"] == 12
            assert 0 < timings["time_to_first_token_s"] < timings["latency_s"]
            assert timings["output_tokens_per_s"] == pytest.approx(12 / timings["latency_s"])

    def test_several_completions_are_under_outputs(self, generate, llm):
        (printed,) = generate("--prompt", TEXT, "--n", "2", "--json", *RANDOM).objects

        expected = [list(c.token_ids) for c in llm.generate(TEXT, n=2, **RANDOM_OPTIONS)[0].outputs]
        assert [completion["token_ids"] for completion in printed["outputs"]] == expected
        assert printed["token_ids"] == expected[0]

    def test_logprobs_are_by_token_id(self, generate):
        (printed,) = generate("--prompt", TEXT, "--logprobs", "2", "--json", *GREEDY).objects

        assert len(printed["logprobs"]) == 12
        assert all(str(i) in entry for i, entry in zip(printed["token_ids"], printed["logprobs"], strict=True))
        assert printed["cumulative_logprob"] < 0

    def test_an_empty_prompt_is_the_bos_token_alone(self, generate):
        (printed,) = generate("--prompt", "", "--json", *GREEDY).objects

        assert printed["prompt_token_ids"] == [BOS_ID]
        assert len(printed["token_ids"]) == 12

    def test_an_automatic_context_is_what_the_pages_hold_and_the_start_says_what_went_where(self, generate):
        finished = generate("--prompt-token-ids", "5,6,7", "--max-model-len", "auto", "--num-pages", "6", "--json")

        (printed,) = finished.objects
        assert len(printed["token_ids"]) == 5 * 4 - len(IDS) or printed["finish_reason"] == "stop"
        assert "memory: " in finished.stderr
        assert "= 20 tokens in 6 pages of 4; context 20\n" in finished.stderr


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (("--prompt", "x " * 40), (f"the context holds {CONTEXT}", "shorten the prompt")),
            (("--prompt", "x " * 40, "--echo"), (f"the context holds {CONTEXT}", "shorten the prompt")),
            (("--prompt", TEXT, "--prompt-token-ids", "300", "--json"), ("prompts[1]", "token id 300")),
            (("--prompt", TEXT, "--temperature", "nan"), ("temperature=nan", "from 0 to 2")),
            (("--prompt", TEXT, "--n", "2", "--temperature", "0"), ("n=2", "use n=1")),
            (("--prompt", TEXT, "--page-size", "0"), ("page_size=0", "from 1")),
            (("--prompt", TEXT, "--num-pages", "1000000000000"), ("GB", "lower num_pages")),
            (("--prompt", TEXT, "--max-model-len", "65"), ("max_model_len=65", "lower it to 64")),
            ((), ("nothing to complete", "--prompt TEXT")),
        ],
    )
    def test_what_is_wrong_is_on_stderr_and_nothing_is_on_stdout(self, generate, arguments, parts):
        finished = generate(*arguments)

        assert (finished.status, finished.stdout) == (1, "")
        (line,) = (line for line in finished.stderr.splitlines() if line.startswith("jinfer: error: "))
        assert all(part in line for part in parts)
        assert "Traceback" not in finished.stderr

    def test_a_model_that_is_not_there(self, run, tmp_path):
        finished = run("generate", "--model", tmp_path / "nowhere", "--prompt", TEXT)

        assert (finished.status, finished.stdout) == (1, "")
        assert finished.stderr.startswith("jinfer: error: ")
        assert "is not a directory" in finished.stderr

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (("--prompt", TEXT, "--temprature", "1"), "--temprature"),
            (("--prompt-token-ids", "5,x"), "'5,x' is not a list of token ids such as 1,2,3"),
            (("--prompt", TEXT, "--dtype", "int4"), "int4"),
            (("--prompt", TEXT, "--max-tokens", "many"), "many"),
            (("--prompt", TEXT, "--max-model-len", "long"), "'long' is neither a number of tokens nor auto"),
        ],
    )
    def test_an_option_that_cannot_be_read_exits_with_2(self, generate, capsys, arguments, part):
        with pytest.raises(SystemExit) as caught:
            generate(*arguments)

        captured = capsys.readouterr()
        assert (caught.value.code, captured.out) == (2, "")
        assert part in captured.err

    def test_no_command_exits_with_2(self, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main([])

        assert caught.value.code == 2
        assert "COMMAND" in capsys.readouterr().err

    @pytest.mark.parametrize("as_json", [False, True])
    def test_a_request_that_fails_on_the_way_is_told_with_its_reason(self, run, tmp_path, as_json):
        tensors = random_tensors() | {"lm_head.weight": np.full((300, 32), np.nan, np.float32)}
        write_checkpoint(tmp_path, tensors=tensors)
        words = ("--json",) if as_json else ()
        finished = run("generate", "--model", tmp_path, *ENGINE, "--prompt", TEXT, *GREEDY, *words)

        assert finished.status == 1
        assert "jinfer: error: " in finished.stderr
        assert "logits that are not finite" in finished.stderr
        if as_json:
            assert finished.objects[0]["finish_reason"] == "error"
        else:
            assert finished.stdout == ""

    @pytest.mark.parametrize(
        ("fault", "status", "line"),
        [
            (RuntimeError("the device fell over"), 1, "jinfer: error: the engine failed"),
            (KeyboardInterrupt(), 130, "jinfer: interrupted"),
        ],
    )
    def test_faults_and_ctrl_c_end_it_without_a_traceback(self, generate, monkeypatch, fault, status, line):
        def fail(*arguments):
            raise fault

        monkeypatch.setattr(Engine, "_dispatch", fail)
        finished = generate("--prompt", TEXT, *GREEDY)

        assert (finished.status, finished.stdout) == (status, "")
        assert line in finished.stderr
        assert "Traceback" not in finished.stderr


def test_dummy_weights_need_a_config_alone(run, tmp_path):
    write_json(tmp_path / "config.json", CONFIG)
    finished = run(
        "generate", "--model", tmp_path, *ENGINE, "--dummy-weights", "--prompt-token-ids", "5,6,7", "--json", *GREEDY
    )

    assert finished.status == 0
    (printed,) = finished.objects
    assert len(printed["token_ids"]) == 12
    assert printed["prompt_token_ids"] == IDS
    assert printed["text"] == ""


class TestConvert:
    def test_what_is_converted_to_orbax_gives_the_same_tokens(self, run, directory, tmp_path, llm):
        out = tmp_path / "orbax"
        converted = run("convert", "--model", directory, "--to", "orbax", out)
        finished = run("generate", "--model", out, *ENGINE, "--prompt", TEXT, "--json", *GREEDY)

        assert (converted.status, converted.stdout) == (0, "")
        assert f"wrote {out} in float32; use it with --model {out}" in converted.stderr
        expected = llm.generate(TEXT, **GREEDY_OPTIONS)[0].outputs[0]
        assert finished.objects[0]["token_ids"] == list(expected.token_ids)
        assert finished.objects[0]["text"] == expected.text

    def test_a_dtype_may_be_chosen(self, run, directory, tmp_path):
        finished = run("convert", "--model", directory, "--to", "orbax", "--dtype", "bfloat16", tmp_path / "orbax")

        assert finished.status == 0
        assert "in bfloat16" in finished.stderr

    def test_nothing_is_overwritten(self, run, directory, tmp_path):
        finished = run("convert", "--model", directory, "--to", "orbax", tmp_path)

        assert (finished.status, finished.stdout) == (1, "")
        assert f"jinfer: error: {tmp_path} exists; name a directory that does not" in finished.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_dtype_that_is_none_is_refused(self, run, tmp_path):
        write_checkpoint(tmp_path / "model", config=dict(CONFIG, torch_dtype="auto"))
        finished = run("convert", "--model", tmp_path / "model", "--to", "orbax", tmp_path / "orbax")

        assert finished.status == 1
        assert "jinfer: error: config.json names the dtype 'auto'; give --dtype" in finished.stderr
        assert not (tmp_path / "orbax").exists()

    def test_weights_that_do_not_fit_leave_nothing_behind(self, run, tmp_path):
        write_checkpoint(tmp_path / "model", config=dict(CONFIG, num_hidden_layers=1), tensors=random_tensors())
        finished = run("convert", "--model", tmp_path / "model", "--to", "orbax", tmp_path / "orbax")

        assert finished.status == 1
        assert "is not a tensor of the model" in finished.stderr
        assert not (tmp_path / "orbax").exists()
