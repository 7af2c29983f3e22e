"""Options from a YAML file."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from jinfer.errors import ConfigError


def read_config_file(path: str, known: Collection[str]) -> dict[str, Any]:
    """The options of a file by name, dashes in names as good as underscores. Raises ConfigError, which names
    the file, for what is no YAML, no mapping, or an unknown name."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a YAML file") from error
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} has a {type(content).__name__}; it must map names of options to values")
    options = {str(name).replace("-", "_"): value for name, value in content.items()}
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{path} has the unknown option {name!r}; the options are {', '.join(sorted(known))}"
            )
    return options
