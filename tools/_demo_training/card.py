"""The model card. Every number in it comes from the run that has just ended."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import jax

from _demo_training.settings import PRESETS, Settings
from _demo_training.texts import STORIES, TALES
from _demo_training.training import Result


@dataclass(frozen=True)
class Facts:
    """`stored_*` is the loss of the bfloat16 weights as written, read back; sums are in nats."""

    num_parameters: int
    num_training_stories: int
    num_tales: int
    num_epoch_tokens: int
    stored_summed_loss: float
    stored_num_targets: int
    num_validation_bytes: int
    samples: dict[str, str]

    @property
    def loss_per_token(self) -> float:
        return self.stored_summed_loss / self.stored_num_targets

    @property
    def bits_per_byte(self) -> float:
        return self.stored_summed_loss / math.log(2) / self.num_validation_bytes


def training_command(preset: str, settings: Settings) -> str:
    """What reproduces the settings; folders are left out, as they differ from machine to machine."""
    words = ["python tools/train_demo_model.py"]
    if preset != next(iter(PRESETS)):
        words.append(f"--preset {preset}")
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value != getattr(PRESETS[preset], field.name):
            words.append(f"--{field.name.replace('_', '-')} {value}")
    return " ".join(words)


FRONT_MATTER = """\
---
license: apache-2.0
language: en
library_name: jinfer
pipeline_tag: text-generation
tags: [qwen3, jax, stories]
---
"""


def architecture_section(s: Settings, facts: Facts) -> str:
    return f"""\
## Architecture

Qwen3 (`Qwen3ForCausalLM`) with {facts.num_parameters:,} parameters, stored in bfloat16: hidden size {s.hidden_size},
{s.num_layers} layers, {s.num_heads} query heads and {s.num_kv_heads} key/value heads of {s.head_dim} channels,
SwiGLU of {s.intermediate_size}, tied embeddings, {s.max_positions} positions, RoPE theta {s.rope_theta:g}.
The tokenizer is a byte-level BPE of {s.vocab_size:,} entries trained on the training text. `<|endoftext|>` is both
BOS and EOS, and the tokenizer puts it before every prompt: the empty prompt starts a story.
"""


def data_section(s: Settings, facts: Facts) -> str:
    return f"""\
## Training text

| text | origin | licence | used |
|---|---|---|---|
| {STORIES.title} | {STORIES.origin} | {STORIES.licence} | {facts.num_training_stories:,} stories; \
{s.num_validation_stories} more held out for validation |
| {TALES.title} | {TALES.origin} | {TALES.licence} | {facts.num_tales} tales, in the first \
{s.tale_steps_share:.0%} of the steps |

Together {facts.num_epoch_tokens:,} tokens. Typography is reduced to ASCII. In each pass over the text,
{s.rename_share:.0%} of the documents get other names for the children in them and, in the first
{s.bpe_dropout_steps_share:.0%} of the steps, {s.bpe_dropout_share:.0%} are tokenized with BPE dropout of \
{s.bpe_dropout:g}.
"""


def training_section(command: str, s: Settings, facts: Facts, result: Result) -> str:
    device = jax.devices()[0].device_kind
    return f"""\
## Training

| | |
|---|---|
| command | `{command}` |
| hardware | 1 x {device} |
| JAX | {jax.__version__} |
| steps | {s.num_steps:,} of {s.batch_rows} rows of {s.max_positions} tokens |
| tokens seen | {result.num_tokens:,} ({result.num_tokens / facts.num_epoch_tokens:.0f} times the text) |
| training time | {result.seconds:.0f} s with compilation, {result.num_tokens / result.seconds:,.0f} tokens/s |
| optimizer | AdamW, peak learning rate {s.learning_rate:g}, weight decay {s.weight_decay:g}, \
dropout {s.dropout:g} |
| kept weights | moving average (decay {s.ema_decay:g}) at step {result.best.step:,}, the lowest validation loss |
| training loss there | {result.best.train_loss:.3f} nats per token, with dropout and augmentation |

## Validation

The stored bfloat16 weights on the {s.num_validation_stories} held-out stories ({facts.stored_num_targets:,} tokens,
{facts.num_validation_bytes:,} bytes), each from its beginning, end included, computed in float32:

| nats per token | perplexity | bits per byte |
|---|---|---|
| {facts.loss_per_token:.4f} | {math.exp(facts.loss_per_token):.2f} | {facts.bits_per_byte:.4f} |

The same stories chose the step that was kept, and the settings among seven runs, so the figure is a little
optimistic for other stories.
"""


CLOSING = """\
## Limitations

A demonstration and a test fixture, not a useful writer. It has read about a thousand stories, many times over: it
knows their manner and little else, loses the thread after a few sentences and may repeat passages of its training
text word for word. It has no knowledge of facts, follows no instructions, and reads only English. The old tales
hold violence and the manners of their time; nothing was filtered.

## Licence

The weights are released under Apache-2.0, like the project. The tales are in the public domain. The stories come
under CDLA-Sharing-1.0, whose terms apply to sharing the data and not to results computed from it; the stories
themselves are not part of this directory.
"""


def samples_section(samples: dict[str, str]) -> str:
    quoted = [
        f"{title}:\n\n" + "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
        for title, text in samples.items()
    ]
    return "## Samples\n\nUnedited, the first of each kind.\n\n" + "\n\n".join(quoted) + "\n"


def write_card(folder: Path, preset: str, settings: Settings, facts: Facts, result: Result) -> None:
    introduction = (
        "# A small story model\n\nIt writes short stories for children in simple English. The project "
        "trained it "
        "itself, in JAX,\nso that its examples and tests have a real model that needs no download.\n"
    )
    sections = [
        introduction,
        architecture_section(settings, facts),
        data_section(settings, facts),
        training_section(training_command(preset, settings), settings, facts, result),
        samples_section(facts.samples),
        CLOSING,
    ]
    (folder / "README.md").write_text(FRONT_MATTER + "\n" + "\n".join(sections), encoding="utf-8")
