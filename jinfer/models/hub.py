"""From what the user calls a model to a directory with its files."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from jinfer.errors import ModelNotFoundError, UnsupportedModelError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NEEDED_FILES = ("*.json", "*.safetensors", "*.jinja")
DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo_model"


def resolve_model_directory(model: str | Path | None, *, weights: bool = True) -> Path:
    """A local directory as it is, a hub id (`organisation/name`) through huggingface_hub and its cache, and None as the
    model that ships with jinfer. `weights=False` leaves the weights on the hub.

    Raises ModelNotFoundError. Environment variables of huggingface_hub (HF_HUB_OFFLINE, HF_HOME, HF_TOKEN) are
    respected.
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
        patterns = [name for name in NEEDED_FILES if weights or "safetensors" not in name]
        return Path(snapshot_download(str(model), allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(
            f"{str(model)!r} is not a directory, and the hub did not give it: {error}; check the name, the network, "
            "HF_TOKEN if it is a gated model, and HF_HUB_OFFLINE"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model. Raises ModelNotFoundError or UnsupportedModelError."""
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} has no {path.name}; a model directory holds one")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise UnsupportedModelError(f"{path} holds a {type(value).__name__} where an object is needed")
    return value
