"""Where in a directory Orbax's tools put a tree of parameters."""

import logging
import re
from pathlib import Path

from jinfer.errors import CheckpointError

logger = logging.getLogger(__name__)

PARAMS_DIRECTORY = "params"
TREE_FILE = "_METADATA"  # of every tree that Orbax wrote
STEP = re.compile(r"(?:\w+[_-])?(\d+)")  # 100, step_100
ITEMS = ("params", "default", "state", "model", "pytree")  # names of trees, that of the parameters first


def find_orbax(directory: Path) -> Path | None:
    """The tree of parameters in a model's directory: `params/`, or in it the newest step or the item that a
    CheckpointManager wrote. In a directory without `params/` the same is looked for in itself. None if there is none.

    Raises CheckpointError where there are several items and none has a name that says what it is.
    """
    params = directory / PARAMS_DIRECTORY
    return (_tree_in(params) or params) if params.is_dir() else _tree_in(directory)


def _tree_in(root: Path) -> Path | None:
    if (root / TREE_FILE).is_file():
        return root
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
    steps = {int(match[1]): path for path in folders if (match := STEP.fullmatch(path.name))}
    trees = {step: tree for step in sorted(steps) if (tree := _tree_of_step(steps[step])) is not None}
    if not trees:
        return _item(folders)
    newest = max(trees)
    if len(trees) > 1:
        logger.warning("%s holds the steps %s: %d is served", root, ", ".join(map(str, trees)), newest)
    return trees[newest]


def _tree_of_step(step: Path) -> Path | None:
    return step if (step / TREE_FILE).is_file() else _item([path for path in step.iterdir() if path.is_dir()])


def _item(folders: list[Path]) -> Path | None:
    trees = {path.name: path for path in folders if (path / TREE_FILE).is_file()}
    named = [trees[name] for name in ITEMS if name in trees]
    if len(trees) > 1 and not named:
        places = ", ".join(map(str, trees.values()))
        raise CheckpointError(f"the weights may be any of {places}; name their folder {PARAMS_DIRECTORY}")
    return next(iter([*named, *trees.values()]), None)
