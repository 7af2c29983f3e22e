"""The directory of a new checkpoint, which is there whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jinfer.errors import ConfigError
from jinfer.weights.model_files import CONFIG_FILES, TEXT_FILES

MODE = 0o755  # of a directory as others are: that of a temporary one is its owner's alone


def check_is_new(out: Path) -> None:
    """Raises ConfigError if `out` is there already."""
    if out.exists():
        raise ConfigError(f"{out} exists; name a directory that does not, so that nothing is overwritten")


@contextlib.contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory beside `out` to write to, which has that name when the block ends, and is removed when it
    fails. Raises ConfigError if `out` is there already."""
    check_is_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place:
        made = Path(place) / out.name
        made.mkdir(MODE)
        yield made
        check_is_new(out)
        made.rename(out)


def copy_small_files(source: Path, out: Path) -> None:
    """Copies what a model's directory has beside the weights: configurations, and the tokenizer's files."""
    for file in [file for pattern in (*CONFIG_FILES, *TEXT_FILES) for file in source.glob(pattern)]:
        copy = out / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
