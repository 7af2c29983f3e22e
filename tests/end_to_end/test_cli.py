"""The command line: results on stdout and nothing else, the rest on stderr, and an exit status that tells."""

import itertools
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

from jinfer import LLM, StreamPiece, cli
from jinfer.execution.executor import Executor
from jinfer.requests.echo import Echo
from tests.checkpoints import (
    BOS,
    BOS_ID,
    CONFIG,
    CONTEXT,
    EOS,
    EOS_ID,
    TINY_ENGINE,
    VOCAB_SIZE,
    random_tensors,
    write_checkpoint,
    write_json,
)
from tests.conftest import COMPILES_FAST

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


@pytest.fixture(scope="module")
def padded(tmp_path_factory) -> Path:
    """Its embedding has twenty rows more than the tokenizer has tokens."""
    return write_checkpoint(
        tmp_path_factory.mktemp("padded"), config={**CONFIG, "vocab_size": VOCAB_SIZE + 20}
    )


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


def new_environment() -> dict[str, str]:
    """Of a process that finds what this one has compiled."""
    return {
        **os.environ,
        **COMPILES_FAST,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command_line(prompts: Sequence[str | list[int]]) -> list[str]:
    return [
        word
        for prompt in prompts
        for word in (
            ("--prompt", prompt)
            if isinstance(prompt, str)
            else ("--prompt-token-ids", ",".join(map(str, prompt)))
        )
    ]


def test_the_engine_options_reach_the_engine(generate, monkeypatch):
    """The last word before anything is loaded."""
    given = {}
    monkeypatch.setattr(
        "jinfer.cli.generate.LLM", lambda model, **options: given.update(options) or sys.exit(7)
    )
    with pytest.raises(SystemExit, match="7"):
        generate("--prompt", TEXT)
    names = ("scheduling_policy", "overlap", "prefix_caching")
    assert [given[name] for name in names] == ["mixed", True, True]
    with pytest.raises(SystemExit, match="7"):
        generate(
            "--prompt", TEXT, "--scheduling-policy", "decode_first", "--no-overlap", "--no-prefix-caching"
        )
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

    def test_words_are_utf8_whatever_the_locale_says(self, generate, llm):
        """Python gives the bytes of what is no ASCII in a C locale as surrogates."""
        text = "é 猫"
        finished = generate("--prompt", text.encode().decode("ascii", "surrogateescape"), "--echo", *GREEDY)

        assert finished.stdout == text + llm.generate(text, **GREEDY_OPTIONS)[0].text

    def test_ids_without_a_token_echo_as_nothing(self, run, padded):
        words = ("--prompt-token-ids", f"5,{VOCAB_SIZE + 3},6", "--prompt-token-ids", f"{VOCAB_SIZE + 19}")
        finished = run("generate", "--model", padded, *ENGINE, *words, "--echo", *GREEDY)

        with LLM(padded, **TINY_ENGINE) as llm:
            prompts = [[5, VOCAB_SIZE + 3, 6], [VOCAB_SIZE + 19]]
            some, none = (output.text for output in llm.generate(prompts, **GREEDY_OPTIONS))
            assert finished.stdout == f"{llm.tokenizer.decode([5, 6])}{some}\n{none}"
        assert finished.status == 0

    @pytest.mark.parametrize("words", [(), ("--echo",), ("--json",), ("--echo", "--json")])
    def test_every_path_takes_the_same_ids(self, run, padded, words):
        last, beyond = VOCAB_SIZE + 19, VOCAB_SIZE + 20
        model = ("generate", "--model", padded, *ENGINE, *GREEDY, *words)

        assert run(*model, "--prompt-token-ids", f"{last},{EOS_ID},{BOS_ID}").status == 0
        refused = run(*model, "--prompt-token-ids", f"5,{beyond}")
        assert (refused.status, refused.stdout) == (1, "")
        assert f"token id {beyond}; ids are integers from 0 to {last}" in refused.stderr
        assert "ready in" not in refused.stderr

    def test_the_echo_of_ids_and_the_completion_are_the_text_of_all_ids(self, generate, llm):
        """Special tokens are left out of both, and an id may end within a character."""
        ids = [
            BOS_ID,
            *llm.tokenizer.encode("the cat"),
            EOS_ID,
            *llm.tokenizer.encode("猫", add_special_tokens=False),
        ]
        finished = generate("--prompt-token-ids", ",".join(map(str, ids)), "--echo", *GREEDY)

        output = llm.generate([ids], **GREEDY_OPTIONS)[0].outputs[0]
        assert finished.stdout == llm.tokenizer.decode([*ids, *output.token_ids])

    def test_ids_that_end_within_a_character(self, llm):
        """Its bytes are the output's if it goes on with them, and else U+FFFD, as they decode together."""
        first, *others = llm.tokenizer.encode("é", add_special_tokens=False)
        assert others
        for output, rest in (([*others, 70], ""), ([70, *others], "\ufffd")):
            echo = Echo([BOS_ID, 70, first, VOCAB_SIZE + 3], llm.tokenizer)
            pieces = [
                StreamPiece(0, 0, "x" if place == 1 else "", (i,), None) for place, i in enumerate(output)
            ]
            assert [echo.text, *map(echo.end_before, pieces)][:3] == [llm.tokenizer.decode([70]), "", rest]

    def test_a_prompt_of_text_is_echoed_as_it_was_given(self, generate, llm):
        text = f"{EOS} the  cat{BOS}"
        finished = generate("--prompt", text, "--echo", *GREEDY)

        assert finished.stdout == text + llm.generate(text, **GREEDY_OPTIONS)[0].text

    def test_texts_and_ids_come_back_in_the_order_they_were_given(self, generate, llm):
        prompts = [IDS, TEXT, [8, 9], OTHER_TEXT]
        finished = generate(*command_line(prompts), *GREEDY)

        assert finished.stdout == "\n".join(output.text for output in llm.generate(prompts, **GREEDY_OPTIONS))

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
        process = subprocess.run(
            [
                sys.executable,
                "-m",
                "jinfer",
                "generate",
                "--model",
                directory,
                *ENGINE,
                "--prompt",
                TEXT,
                *GREEDY,
            ],
            cwd=REPOSITORY,
            env=new_environment(),
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

    def test_several_completions_are_under_outputs(self, generate, llm):
        (printed,) = generate("--prompt", TEXT, "--n", "2", "--json", *RANDOM).objects

        expected = [list(c.token_ids) for c in llm.generate(TEXT, n=2, **RANDOM_OPTIONS)[0].outputs]
        assert [completion["token_ids"] for completion in printed["outputs"]] == expected
        assert printed["token_ids"] == expected[0]

    def test_logprobs_are_by_token_id(self, generate):
        (printed,) = generate("--prompt", TEXT, "--logprobs", "2", "--json", *GREEDY).objects

        assert len(printed["logprobs"]) == 12
        assert all(
            str(i) in entry for i, entry in zip(printed["token_ids"], printed["logprobs"], strict=True)
        )
        assert printed["cumulative_logprob"] < 0

    def test_an_empty_prompt_is_the_bos_token_alone(self, generate):
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
    def test_what_had_ended_is_printed_after_a_fault_or_ctrl_c(
        self, generate, llm, monkeypatch, fault, status, line
    ):
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

    def test_an_automatic_context_is_what_the_pages_hold_and_the_start_says_what_went_where(self, generate):
        finished = generate(
            "--prompt-token-ids", "5,6,7", "--max-model-len", "auto", "--num-pages", "6", "--json"
        )

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
            (("--prompt", TEXT, "--num-pages", "2000000000"), ("GB", "lower num_pages")),
            (("--prompt", TEXT, "--max-model-len", "65"), ("max_model_len=65", "lower it to 64")),
            (
                ("--prompt", TEXT, "--num-pages", "3", "--max-model-len", "20"),
                ("hold 8 tokens", "max_model_len=20"),
            ),
            (("--prompt", TEXT, "--max-num-seqs", "17"), ("max_num_seqs=17", "max_num_batched_tokens=16")),
            ((), ("nothing to complete", "--prompt TEXT")),
            (("--prompt-token-ids", "1,-2"), ("token id -2", "from 0 to 299")),
            (("--prompt-token-ids=-1,2",), ("token id -1", "from 0 to 299")),
            (("--prompt-token-ids", "9" * 18), ("token id 999", "from 0 to 299")),
            (("--prompt", "a\udce9"), ("lone surrogate", "remove it")),
            (("--prompt", TEXT, "--prompt", "a\udce9"), ("prompts[1]", "lone surrogate")),
            (("--prompt", TEXT, "--min-tokens", "99"), ("min_tokens=99", "context of 64")),
            (("--prompt", TEXT, "--min-tokens", "9", "--max-tokens", "8"), ("min_tokens=9", "max_tokens=8")),
            (("--prompt", TEXT, "--max-tokens", "0"), ("max_tokens=0", "from 1")),
            (("--prompt", TEXT, "--n", "0"), ("n=0", "from 1 to 128")),
            (("--prompt", TEXT, "--seed", "-1"), ("seed=-1", "from 0")),
            (("--prompt", TEXT, "--seed", str(2**64)), (f"seed={2**64}", "from 0")),
            (("--prompt", TEXT, "--temperature", "1e400"), ("temperature=inf", "from 0 to 2")),
            (("--prompt", TEXT, "--top-p", "0"), ("top_p=0.0", "above 0")),
            (("--prompt", TEXT, "--top-k", "-2"), ("top_k=-2", "from -1")),
            (("--prompt", TEXT, "--min-p", "1.5"), ("min_p=1.5", "from 0 to 1")),
            (("--prompt", TEXT, "--stop", ""), ("stop=''", "1 to 1024")),
            (("--prompt", TEXT, *(["--stop", "a"] * 17)), ("17 stop strings", "at most 16")),
            (("--prompt", TEXT, "--logprobs", "21", "--json"), ("logprobs=21", "from 0 to 20")),
            (("--prompt", TEXT, "--logprobs", "2"), ("--logprobs 2", "add --json")),
        ],
    )
    def test_what_is_wrong_is_on_stderr_and_nothing_is_on_stdout(self, generate, arguments, parts):
        finished = generate(*arguments)

        assert (finished.status, finished.stdout) == (1, "")
        (line,) = (line for line in finished.stderr.splitlines() if line.startswith("jinfer: error: "))
        assert all(part in line for part in parts)
        assert "Traceback" not in finished.stderr
        assert "loading the weights" not in finished.stderr

    def test_a_default_of_the_model_that_an_option_contradicts(self, run, tmp_path):
        write_checkpoint(tmp_path, generation_config={"temperature": 0})
        finished = run("generate", "--model", tmp_path, *ENGINE, "--prompt", TEXT, "--n", "2")

        assert finished.status == 1
        assert "jinfer: error: n=2 with temperature 0" in finished.stderr
        assert "loading the weights" not in finished.stderr

    @pytest.mark.parametrize("words", [("--prompt", TEXT), ("--prompt-token-ids", "5", "--stop", "a")])
    def test_text_for_a_model_without_a_tokenizer(self, run, tmp_path, words):
        write_checkpoint(tmp_path, tokenizer=False)
        finished = run("generate", "--model", tmp_path, *ENGINE, *words)

        assert finished.status == 1
        assert "a tokenizer, and the model has none; pass token ids" in finished.stderr
        assert "loading the weights" not in finished.stderr

    def test_a_model_that_is_not_there(self, run, tmp_path):
        finished = run("generate", "--model", tmp_path / "nowhere", "--prompt", TEXT)

        assert (finished.status, finished.stdout) == (1, "")
        assert finished.stderr.startswith("jinfer: error: ")
        assert "is not a directory" in finished.stderr

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (("generate", "--prompt", TEXT, "--model", "x" * 5000), "File name too long"),
            (("convert", "--model", "x", "--to", "orbax", "x" * 5000), "File name too long"),
            (("bench", "latency", "b1", "--config", "x" * 5000), "File name too long"),
        ],
    )
    def test_what_the_system_refuses_is_a_line(self, run, words, reason):
        finished = run(*words)

        (line,) = finished.stderr.splitlines()
        assert line.startswith("jinfer: error: ")
        assert reason in line
        assert (finished.status, finished.stdout) == (1, "")

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (("--prompt", TEXT, "--temprature", "1"), "--temprature"),
            (("--prompt-token-ids", "5,x"), "'5,x' is not a list of token ids such as 1,2,3"),
            (("--prompt-token-ids", ""), "'' is not a list of token ids such as 1,2,3"),
            (("--prompt-token-ids", "1,,2"), "'1,,2' is not a list of token ids"),
            (("--prompt-token-ids", "1 2"), "'1 2' is not a list of token ids"),
            (("--prompt-token-ids", "1_0"), "'1_0' is not a list of token ids"),
            (("--prompt-token-ids", "٣"), "is not a list of token ids"),
            (
                ("--prompt-token-ids", "9" * 5000),
                "...' is not a list of token ids such as 1,2,3; an id is a number of",
            ),
            (("--prompt", TEXT, "--max-tokens", "9" * 5000), "invalid int value"),
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

    def test_ctrl_c_while_jax_is_imported(self, tmp_path):
        (tmp_path / "jax.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
        done = subprocess.run(
            [sys.executable, "-m", "jinfer", "generate", "--prompt", TEXT],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "jinfer: interrupted\n")

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

        monkeypatch.setattr(Executor, "dispatch", fail)
        finished = generate("--prompt", TEXT, *GREEDY)

        assert (finished.status, finished.stdout) == (status, "")
        assert line in finished.stderr
        assert "Traceback" not in finished.stderr


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
        finished = run(
            "convert", "--model", directory, "--to", "orbax", "--dtype", "bfloat16", tmp_path / "orbax"
        )

        assert finished.status == 0
        assert "in bfloat16" in finished.stderr

    def test_nothing_is_overwritten(self, run, directory, tmp_path):
        finished = run("convert", "--model", directory, "--to", "orbax", tmp_path)

        assert (finished.status, finished.stdout) == (1, "")
        assert f"jinfer: error: {tmp_path} exists; name a directory that does not" in finished.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("place", ["/dev/full", "/dev/full/deeper"])
    def test_a_place_that_cannot_be_written_is_refused_before_weights_are_read(
        self, run, directory, monkeypatch, place
    ):
        monkeypatch.setattr(
            "jinfer.cli.convert.choose_weights", lambda *given, **options: pytest.fail("it read them")
        )
        finished = run("convert", "--model", directory, "--to", "orbax", f"{place}/out")

        assert (finished.status, finished.stdout) == (1, "")
        assert f"jinfer: error: {place}/out cannot be made: /dev/full is no directory" in finished.stderr

    @pytest.mark.parametrize(
        "fault", [OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: 28")]
    )
    def test_a_disk_that_is_full_is_an_error_with_the_place(
        self, run, directory, tmp_path, monkeypatch, fault
    ):
        def save(*arguments):
            raise fault

        monkeypatch.setattr("jinfer.cli.convert.save_orbax", save)
        finished = run("convert", "--model", directory, "--to", "orbax", tmp_path / "out")

        assert (finished.status, finished.stdout) == (1, "")
        assert (
            f"jinfer: error: {tmp_path / 'out'} cannot be written: {fault}; remove what is there"
            in finished.stderr
        )

    def test_a_dtype_that_is_none_is_refused(self, run, tmp_path):
        write_checkpoint(tmp_path / "model", config=dict(CONFIG, torch_dtype="auto"))
        finished = run("convert", "--model", tmp_path / "model", "--to", "orbax", tmp_path / "orbax")

        assert finished.status == 1
        assert "jinfer: error: config.json names the dtype 'auto'; give --dtype" in finished.stderr
        assert not (tmp_path / "orbax").exists()

    def test_weights_that_do_not_fit_leave_nothing_behind(self, run, tmp_path):
        write_checkpoint(
            tmp_path / "model", config=dict(CONFIG, num_hidden_layers=1), tensors=random_tensors()
        )
        finished = run("convert", "--model", tmp_path / "model", "--to", "orbax", tmp_path / "orbax")

        assert finished.status == 1
        assert "is not a tensor of the model" in finished.stderr
        assert not (tmp_path / "orbax").exists()
