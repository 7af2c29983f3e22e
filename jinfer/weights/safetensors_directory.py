"""The safetensors files of a directory: one file, or several with an index that says what each holds."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from jinfer.errors import CheckpointError, UnsupportedModelError
from jinfer.weights.params import named
from jinfer.weights.safetensors_file import SafetensorsTensor, read_header
from jinfer.weights.tensor_source import StoredTensor

logger = logging.getLogger(__name__)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUFFIX = ".safetensors"
EXPLICIT_SOURCE = "transformers_weights"  # the entry of config.json that names the file or the index


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of one source, by name, in the order of the files.

    `origin` is model.safetensors or the index. `absent` are tensors that the index gives to a file that lacks
    them, with that file.
    """

    origin: Path
    tensors: Mapping[str, StoredTensor]
    absent: Mapping[str, Path] = field(default_factory=dict)


def find_sources(directory: Path, raw: Mapping[str, Any]) -> list[Path]:
    """The files of `source_names` that are there."""
    return [path for path in (directory / name for name in source_names(raw)) if path.is_file()]


def source_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """model.safetensors and the index, in the order in which transformers takes them; or the one file that
    the config.json `raw` names. Raises UnsupportedModelError unless that is a safetensors file or an index of
    some."""
    name = raw.get(EXPLICIT_SOURCE)
    if name is None:
        return SINGLE_FILE, INDEX_FILE
    is_file_name = isinstance(name, str) and "\0" not in name and Path(name).name == name
    if not is_file_name or not (name.endswith(SUFFIX) or is_index(Path(name))):
        raise UnsupportedModelError(
            f"config.json has {EXPLICIT_SOURCE} {name!r}, which is no safetensors file or index of the "
            "model's directory; name one, or leave the entry out"
        )
    return (name,)


def find_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of the first source of a directory. Raises CheckpointError."""
    sources = find_sources(directory, {})
    if not sources:
        raise no_weights(directory, {})
    return dict(open_source(sources[0]).tensors)


def no_weights(directory: Path, raw: Mapping[str, Any]) -> CheckpointError:
    """The error of a directory without any weights that jinfer reads."""
    names = source_names(raw)
    return CheckpointError(
        f"{directory} holds {'neither' if len(names) > 1 else 'no'} {' nor '.join(names)}; jinfer reads "
        "safetensors and Orbax checkpoints only: fetch the model again, or convert it"
    )


def open_source(origin: Path) -> TensorFiles:
    """Reads the headers, and the index first if it is one. Raises CheckpointError."""
    return _open_index(origin) if is_index(origin) else TensorFiles(origin, read_header(origin))


def is_index(origin: Path) -> bool:
    """True if the file says which files hold the tensors, and holds none itself."""
    return origin.name.endswith(SUFFIX + ".index.json")


def _open_index(index: Path) -> TensorFiles:
    """Each tensor from the file that the index gives it to; one that it does not mention, from the only one
    with it."""
    weight_map = read_index(index)
    paths = {file: index.parent / file for file in set(weight_map.values())}
    given = {name: paths[file] for name, file in weight_map.items()}
    files = sorted(set(paths.values()))
    missing = [str(file.relative_to(index.parent)) for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {named(missing)}, which {index.parent} lacks; fetch the model again"
        )
    tensors: dict[str, SafetensorsTensor] = {}
    copies: list[str] = []
    for file in files:
        for name, tensor in read_header(file).items():
            if given[name] == file if name in given else name not in tensors:
                tensors[name] = tensor
            elif name in given:
                copies.append(f"{name} in {file.name}")
            else:
                raise CheckpointError(
                    f"{tensors[name].file} and {file} both hold {name}, and {index} does not say which is "
                    "right; name its file in weight_map"
                )
    _say_what_the_index_leaves(index, copies, [name for name in tensors if name not in given])
    absent = {name: file for name, file in given.items() if name not in tensors}
    return TensorFiles(index, tensors, absent)


def _say_what_the_index_leaves(index: Path, copies: list[str], unmentioned: list[str]) -> None:
    if copies:
        logger.warning("not read, since %s gives them to other files: %s", index, named(copies))
    if unmentioned:
        logger.warning(
            "%s does not mention %s, which its files hold and which are read", index, named(unmentioned)
        )


def read_index(index: Path) -> dict[str, str]:
    """The file of each tensor, below the directory of the index. Raises CheckpointError."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_without_contradictions)
        weight_map = content["weight_map"]
        if not isinstance(weight_map, dict):
            raise ValueError(f"weight_map is a {type(weight_map).__name__}, and must map tensors to files")
        for name, file in weight_map.items():
            _check_shard_name(name, file)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is not an index of safetensors files: {error!r}; fetch it again"
        ) from error
    return weight_map


def _without_contradictions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that is there twice, with another value."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise ValueError(f"{name!r} is there twice, as {found[name]!r:.80} and as {value!r:.80}")
        found[name] = value
    return found


def _check_shard_name(name: str, file: Any) -> None:
    if not isinstance(file, str):
        raise ValueError(f"{name} is in {file!r:.80}, and must be in a file")
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file or path.suffix != SUFFIX:
        raise ValueError(f"{name} is in {file!r}, which is no {SUFFIX} file of this directory")
