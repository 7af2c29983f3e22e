"""`jinfer generate`: text on stdout and nothing else, the rest on stderr."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jinfer import LLM, StreamPiece
from jinfer.requests.echo import Echo
from tests.checkpoints import BOS, BOS_ID, CONFIG, EOS, EOS_ID, TINY_ENGINE, VOCAB_SIZE, write_checkpoint
from tests.end_to_end.cli.helpers import (
    ENGINE,
    GREEDY,
    GREEDY_OPTIONS,
    IDS,
    OTHER_TEXT,
    RANDOM,
    RANDOM_OPTIONS,
    REPOSITORY,
    TEXT,
    command_line,
    new_environment,
)


def test_the_engine_options_reach_the_engine(start, monkeypatch):
    """The last word before anything is loaded."""
    given = {}
    monkeypatch.setattr(
        "jinfer.cli.generate.LLM", lambda model, **options: given.update(options) or sys.exit(7)
    )
    with pytest.raises(SystemExit, match="7"):
        start("--prompt", TEXT)
    names = ("scheduling_policy", "overlap", "prefix_caching")
    assert [given[name] for name in names] == ["mixed", True, True]
    with pytest.raises(SystemExit, match="7"):
        start("--prompt", TEXT, "--scheduling-policy", "decode_first", "--no-overlap", "--no-prefix-caching")
    assert [given[name] for name in names] == ["decode_first", False, False]


@pytest.fixture(scope="module")
def padded(tmp_path_factory) -> Path:
    """Its embedding has twenty rows more than the tokenizer has tokens."""
    return write_checkpoint(
        tmp_path_factory.mktemp("padded"), config={**CONFIG, "vocab_size": VOCAB_SIZE + 20}
    )


@pytest.fixture(scope="module")
def padded_llm(padded) -> Iterator[LLM]:
    with LLM(padded, **TINY_ENGINE) as llm:
        yield llm


def test_stdout_has_the_text_and_nothing_else(start, llm):
    finished = start("--prompt", TEXT, *GREEDY)

    assert finished.status == 0
    assert finished.stdout == llm.generate(TEXT, **GREEDY_OPTIONS)[0].text  # no line feed either
    assert "12 tokens in " in finished.stderr
    assert "tokens/s, first token after" in finished.stderr
    assert "ready in" in finished.stderr


def test_echo_prints_the_prompt_before_its_completion(generate, llm):
    finished = generate("--prompt", TEXT, "--prompt-token-ids", "5,6,7", "--echo", *GREEDY)

    text, ids = (output.text for output in llm.generate([TEXT, IDS], **GREEDY_OPTIONS))
    assert finished.stdout == f"{TEXT}{text}\n{llm.tokenizer.decode(IDS)}{ids}"


def test_words_are_utf8_whatever_the_locale_says(generate, llm):
    """Python gives the bytes of what is no ASCII in a C locale as surrogates."""
    text = "é 猫"
    finished = generate("--prompt", text.encode().decode("ascii", "surrogateescape"), "--echo", *GREEDY)

    assert finished.stdout == text + llm.generate(text, **GREEDY_OPTIONS)[0].text


@pytest.fixture
def generate_padded(run, lend, padded, padded_llm):
    """`jinfer generate` with the padded model."""
    lend(padded_llm)
    return lambda *arguments: run("generate", "--model", padded, *ENGINE, *GREEDY, *arguments)


def test_ids_without_a_token_echo_as_nothing(generate_padded, padded_llm):
    prompts = [[5, VOCAB_SIZE + 3, 6], [VOCAB_SIZE + 19]]
    finished = generate_padded(*command_line(prompts), "--echo")

    some, none = (output.text for output in padded_llm.generate(prompts, **GREEDY_OPTIONS))
    assert finished.stdout == f"{padded_llm.tokenizer.decode([5, 6])}{some}\n{none}"
    assert finished.status == 0


@pytest.mark.parametrize("words", [(), ("--echo",), ("--json",), ("--echo", "--json")])
def test_every_path_takes_the_same_ids(generate_padded, monkeypatch, words):
    last, beyond = VOCAB_SIZE + 19, VOCAB_SIZE + 20

    assert generate_padded(*words, "--prompt-token-ids", f"{last},{EOS_ID},{BOS_ID}").status == 0
    monkeypatch.setattr("jinfer.cli.generate.LLM", lambda *given, **options: pytest.fail("it started"))
    refused = generate_padded(*words, "--prompt-token-ids", f"5,{beyond}")
    assert (refused.status, refused.stdout) == (1, "")
    assert f"token id {beyond}; ids are integers from 0 to {last}" in refused.stderr


def test_the_echo_of_ids_and_the_completion_are_the_text_of_all_ids(generate, llm):
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


def test_ids_that_end_within_a_character(llm):
    """Its bytes are the output's if it goes on with them, and else U+FFFD, as they decode together."""
    first, *others = llm.tokenizer.encode("é", add_special_tokens=False)
    assert others
    for output, rest in (([*others, 70], ""), ([70, *others], "\ufffd")):
        echo = Echo([BOS_ID, 70, first, VOCAB_SIZE + 3], llm.tokenizer)
        pieces = [StreamPiece(0, 0, "x" if place == 1 else "", (i,), None) for place, i in enumerate(output)]
        assert [echo.text, *map(echo.end_before, pieces)][:3] == [llm.tokenizer.decode([70]), "", rest]


def test_a_prompt_of_text_is_echoed_as_it_was_given(generate, llm):
    text = f"{EOS} the  cat{BOS}"
    finished = generate("--prompt", text, "--echo", *GREEDY)

    assert finished.stdout == text + llm.generate(text, **GREEDY_OPTIONS)[0].text


def test_texts_and_ids_come_back_in_the_order_they_were_given(generate, llm):
    prompts = [IDS, TEXT, [8, 9], OTHER_TEXT]
    finished = generate(*command_line(prompts), *GREEDY)

    assert finished.stdout == "\n".join(output.text for output in llm.generate(prompts, **GREEDY_OPTIONS))


def test_several_prompts_are_printed_in_order_with_a_line_feed_between(generate, llm):
    prompts = [TEXT, OTHER_TEXT, "rain", IDS]  # twice as many as run at a time
    finished = generate(*command_line(prompts), *RANDOM)

    outputs = llm.generate(prompts, **RANDOM_OPTIONS)
    assert finished.stdout == "\n".join(output.text for output in outputs)
    assert "48 tokens in " in finished.stderr


def test_n_completions_follow_their_prompt(generate, llm):
    finished = generate("--prompt", TEXT, "--prompt", OTHER_TEXT, "--n", "2", *RANDOM)

    outputs = llm.generate([TEXT, OTHER_TEXT], n=2, **RANDOM_OPTIONS)
    assert finished.stdout == "\n".join(c.text for output in outputs for c in output.outputs)


def test_the_options_reach_the_sampler(generate, llm):
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


def test_logging_is_left_as_it_was(start):
    logger = logging.getLogger("jinfer")
    before = logger.level, logger.propagate, list(logger.handlers)
    start("--prompt", TEXT, *GREEDY)

    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_a_new_process(directory, llm):
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
