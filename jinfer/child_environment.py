"""The environment of a process that runs a module of jinfer."""

import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import jinfer


def child_environment(needs: ModuleType | None = None) -> dict[str, str]:
    """Variables of this process, and a path on which the same jinfer is found, and the package `needs`:
    Python does not look into a checkout by itself."""
    paths = [*_roots(filter(None, (jinfer, needs))), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)} if paths else dict(os.environ)


def _roots(packages: Iterable[ModuleType]) -> list[str]:
    """The folders that the packages are in, where Python does not look there anyway."""
    usual = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    roots = [str(Path(str(package.__file__)).resolve().parents[1]) for package in packages]
    return [root for root in dict.fromkeys(roots) if root not in usual]
