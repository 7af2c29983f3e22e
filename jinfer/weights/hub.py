"""The directory of a model that is named by a path or a hub id."""

import glob
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
)

from jinfer.errors import ModelNotFoundError, UnsupportedModelError
from jinfer.weights.model_files import ADAPTER_CONFIG, CONFIG_FILES, SIDE_FILES, TEXT_FILES, TOKENIZER_FILE
from jinfer.weights.orbax_layout import PARAMS_DIRECTORY
from jinfer.weights.params import named
from jinfer.weights.safetensors_directory import INDEX_FILE, SINGLE_FILE, is_index, read_index, source_names

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo_model"


def resolve_model_directory(model: str | Path | None, *, weights: bool = True) -> Path:
    """A local directory as it is, a hub id (`organisation/name`) through huggingface_hub and its cache, and
    None as the model that ships with jinfer. `weights=False` leaves the weights on the hub.

    Of a hub model nothing is fetched that is not read: not weights in other formats, and not what lies in
    folders. Raises ModelNotFoundError, also where the hub is out of reach and its cache lacks a file that is
    needed. Environment variables of huggingface_hub (HF_HUB_OFFLINE, HF_HOME, HF_TOKEN) are respected.
    """
    if model is None:
        return DEMO_MODEL
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory
    if not HUB_ID.fullmatch(str(model)):
        raise ModelNotFoundError(
            f"{str(model)!r} is not a directory, and not a hub id either (organisation/name); check the path"
        )
    try:
        return _fetch_from_hub(str(model), weights=weights)
    except ModelNotFoundError:
        raise
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(
            f"{str(model)!r} is not a directory, and the hub did not give it: {error}; check the name, the "
            "network, HF_TOKEN if it is a gated model, and HF_HUB_OFFLINE"
        ) from error


def _fetch_from_hub(repository: str, *, weights: bool) -> Path:
    """The folder of the cache with what is read of a model. Raises IncompleteSnapshotError or
    ModelNotFoundError where the cache alone is at hand and lacks something."""
    small = [*CONFIG_FILES, *TEXT_FILES, *SIDE_FILES]
    try:
        snapshot = _fetch(repository, [*small, SINGLE_FILE, INDEX_FILE] if weights else small)
    except IncompleteSnapshotError:
        snapshot = _small_files_in_cache(repository)
    if weights:
        _fetch_more_weights(repository, snapshot)
    return snapshot


def _small_files_in_cache(repository: str) -> Path:
    """All but the weights. A config, or a part of the tokenizer, must be there if the repository has it;
    without any tokenizer a model takes token ids."""
    try:
        return _fetch(repository, [*CONFIG_FILES, *TEXT_FILES, *SIDE_FILES])
    except IncompleteSnapshotError as error:
        reason = error
    try:
        snapshot = _fetch(repository, [*CONFIG_FILES, *TEXT_FILES])
    except IncompleteSnapshotError:
        snapshot = _fetch(repository, CONFIG_FILES)
        if (snapshot / TOKENIZER_FILE).is_file():
            raise
    logger.warning("served without what the cache lacks: %s", reason)
    return snapshot


def _fetch_more_weights(repository: str, snapshot: Path) -> None:
    """Fetches the shards of an index, the file of config.json, or Orbax's `params/`, unless weights are
    there."""
    origins = [snapshot / name for name in source_names(read_json(snapshot / CONFIG_FILES[0]))]
    present = [origin for origin in origins if origin.is_file()]
    if any(not _absent_shards(origin) for origin in present):
        return
    if not present:
        _fetch_more(repository, snapshot, [*(origin.name for origin in origins), f"{PARAMS_DIRECTORY}/*"])
    for origin in origins:
        _fetch_more(repository, snapshot, [glob.escape(name) for name in _absent_shards(origin)])


def _absent_shards(origin: Path) -> list[str]:
    """The files that an index names and its folder lacks."""
    names = set(read_index(origin).values()) if is_index(origin) and origin.is_file() else ()
    return sorted(name for name in names if not (origin.parent / name).is_file())


def _fetch_more(repository: str, snapshot: Path, patterns: Sequence[str]) -> None:
    """Files of the same commit. Raises ModelNotFoundError that names them where the hub is out of reach."""
    if not patterns:
        return
    try:
        _fetch(repository, patterns, revision=snapshot.name)
    except (LocalEntryNotFoundError, OSError) as error:  # by version of huggingface_hub, where it is offline
        raise ModelNotFoundError(
            f"the hub's cache lacks {named(patterns)} of {repository}, and the hub is out of reach "
            f"({error}); fetch the model where there is a network"
        ) from error


def _fetch(repository: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """The folder of the hub's cache with these files, those that the repository has."""
    return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model. Raises ModelNotFoundError or UnsupportedModelError."""
    if not path.is_file() and (path.parent / ADAPTER_CONFIG).is_file():
        raise ModelNotFoundError(
            f"{path.parent} has no {path.name}, and {ADAPTER_CONFIG} says that it is an adapter, which "
            "jinfer cannot apply; merge it into its base model (merge_and_unload of peft) and save that"
        )
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} has no {path.name}; a model directory holds one")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise UnsupportedModelError(f"{path} holds a {type(value).__name__} where an object is needed")
    return value
