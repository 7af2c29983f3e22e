"""Trains the small story model of the package and writes it as a Hugging Face directory with a model card.

    python tools/train_demo_model.py                          the real run, on one NVIDIA H200
    python tools/train_demo_model.py --preset tiny --out DIR  a smoke test, on any machine

Every field of Settings is an option too: --num-steps 2000 --dropout 0.2.
"""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from _demo_training.card import Facts, write_card
from _demo_training.export import STORIES_TEMPERATURE, num_parameters, read_params, write_directory
from _demo_training.rows import (
    encode_documents,
    in_background,
    train_tokenizer,
    training_batches,
    validation_rows,
)
from _demo_training.sampling import PROMPTS, sample_stories
from _demo_training.settings import PRESETS, Settings
from _demo_training.texts import Corpus, read_corpus
from _demo_training.training import Result, evaluate, train
from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
MAX_DIRECTORY_BYTES = 16 * 2**20


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared/data/text")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "jinfer/demo_model")
    parser.add_argument("--preset", choices=PRESETS, default=next(iter(PRESETS)))
    for field in fields(Settings):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=field.type, help=f"default {field.default}"
        )
    options = parser.parse_args(arguments)
    given = {field.name: getattr(options, field.name) for field in fields(Settings)}
    settings = replace(
        PRESETS[options.preset], **{name: value for name, value in given.items() if value is not None}
    )
    return options, settings


def write_samples(folder: Path, tokenizer: Tokenizer, settings: Settings) -> dict[str, str]:
    """Prints stories of the stored weights; returns the greedy one and the first sampled one, for the
    card."""
    params = read_params(folder, settings)
    greedy = sample_stories(params, tokenizer, settings, [""], temperature=None)[0]
    sampled = sample_stories(params, tokenizer, settings, PROMPTS, STORIES_TEMPERATURE)
    print(f"--- greedy, empty prompt\n{greedy}\n")
    for prompt, story in zip(PROMPTS, sampled, strict=True):
        print(f"--- temperature {STORIES_TEMPERATURE}, prompt {prompt!r}\n{story}\n")
    return {
        "Greedy from the empty prompt": greedy,
        f"Temperature {STORIES_TEMPERATURE}, empty prompt": sampled[0],
    }


def describe(folder: Path, corpus: Corpus, tokenizer: Tokenizer, settings: Settings) -> Facts:
    """Measures what has been written, not what is in memory: the card speaks of the files beside it."""
    params = read_params(folder, settings)
    validation = validation_rows(tokenizer, corpus.validation_stories, settings.max_positions)
    summed_loss, num_targets = evaluate(params, validation, settings)
    documents = encode_documents(tokenizer, corpus.train_stories + corpus.tales)
    return Facts(
        num_parameters=num_parameters(params),
        num_training_stories=len(corpus.train_stories),
        num_tales=len(corpus.tales),
        num_epoch_tokens=sum(len(document) - 1 for document in documents),
        stored_summed_loss=summed_loss,
        stored_num_targets=num_targets,
        num_validation_bytes=sum(len(story.encode()) for story in corpus.validation_stories),
        samples=write_samples(folder, tokenizer, settings),
    )


def check_size(folder: Path) -> None:
    num_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    if num_bytes > MAX_DIRECTORY_BYTES:
        raise ValueError(
            f"{folder} holds {num_bytes:,} bytes, more than {MAX_DIRECTORY_BYTES:,}: make the model smaller"
        )


def run_training(corpus: Corpus, tokenizer: Tokenizer, settings: Settings) -> Result:
    batches = in_background(training_batches(corpus, tokenizer, settings))
    return train(
        settings, batches, validation_rows(tokenizer, corpus.validation_stories, settings.max_positions)
    )


def main() -> None:
    options, settings = parse_arguments()
    corpus = read_corpus(options.data, settings.num_validation_stories, settings.seed)
    tokenizer = train_tokenizer(corpus.train_stories + corpus.tales, settings.vocab_size)
    result = run_training(corpus, tokenizer, settings)
    write_directory(options.out, result.best_params, tokenizer, settings)
    facts = describe(options.out, corpus, tokenizer, settings)
    write_card(options.out, options.preset, settings, facts, result)
    check_size(options.out)
    print(
        f"stored weights: {facts.loss_per_token:.4f} nats per token, {facts.bits_per_byte:.4f} bits per byte",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
