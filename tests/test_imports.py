"""What importing does, and which module may import what."""

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
JINFER = sorted((REPOSITORY / "jinfer").rglob("*.py"))
PALLAS_KERNELS = REPOSITORY / "pallas_kernels"
KERNELS = sorted(PALLAS_KERNELS.rglob("*.py"))
OPERATIONS = sorted(
    path.parent.name for path in PALLAS_KERNELS.glob("*/__init__.py") if path.parent.name != "core"
)
HEAVY = ("torch", "transformers", "matplotlib", "tensorflow", "aiohttp", "ray", "flax", "orbax")

IMPORT_AND_TELL = """
import json, os, sys
import jax  # which sets two variables itself
before = dict(os.environ)
import jinfer.async_llm, jinfer.cli.command
after = dict(os.environ)
from jax._src import xla_bridge
print(json.dumps({
    "backends": xla_bridge.backends_are_initialized(),
    "changed": sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k)),
    "modules": sorted(sys.modules),
}))
"""


@pytest.fixture(scope="module")
def fresh_import() -> dict:
    """What a new process says after it imported jinfer and its command line."""
    command = [sys.executable, "-W", "error", "-c", IMPORT_AND_TELL]
    environment = {"PATH": os.environ["PATH"]}  # what this process has was perhaps set by jinfer
    process = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return json.loads(process.stdout)


def test_the_host_is_imported_without_jax():
    host = "jinfer.engine.loop, jinfer.scheduling.scheduler, jinfer.text.tokenizer, jinfer.cli"
    code = f"import sys, {host}; from jinfer import ConfigError, SamplingParams, RequestOutput"
    code += "; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=600)


def test_importing_starts_no_backend(fresh_import):
    assert fresh_import["backends"] is False


def test_importing_sets_no_environment_variable(fresh_import):
    assert fresh_import["changed"] == []


@pytest.mark.parametrize("name", HEAVY)
def test_importing_does_not_import_what_inference_does_not_need(fresh_import, name):
    assert name not in fresh_import["modules"]


def test_the_host_can_be_imported_without_jax():
    """The front of a server has no need of it."""
    command = (
        "import sys, jinfer.requests.request_factory, jinfer.engine.loop; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command], cwd=REPOSITORY, timeout=600).returncode == 0


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names: `from a import b` gives a and a.b, for b may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(paths: list[Path], package: str) -> list[str]:
    def belongs(name: str) -> bool:
        return name == package or name.startswith(package + ".")

    return [str(path.relative_to(REPOSITORY)) for path in paths if any(map(belongs, imported_modules(path)))]


def test_the_sources_are_found():
    assert len(JINFER) > 30
    assert len(KERNELS) > 5
    assert importers(JINFER, "jax")


def test_pallas_is_imported_by_the_kernels_alone():
    assert importers(JINFER, "jax.experimental.pallas") == []
    assert importers(KERNELS, "jax.experimental.pallas")


def test_the_kernels_do_not_know_jinfer():
    assert importers(KERNELS, "jinfer") == []


def path_of(module: str) -> Path | None:
    """The source of a module of jinfer; None for what is a name within a module, or another package's."""
    path = REPOSITORY.joinpath(*module.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def reached_from(paths: list[Path]) -> set[Path]:
    """The sources that importing `paths` runs, all packages' own `__init__` included but jinfer's, which
    imports a name when it is first used."""
    reached, new = set(paths), list(paths)
    while new:
        modules = [module for module in imported_modules(new.pop()) if module.startswith("jinfer.")]
        found = {path for path in map(path_of, modules) if path is not None} - reached
        reached |= found
        new += found
    return reached


def sources_of(name: str) -> list[Path]:
    """The files of a folder of jinfer, or the one module."""
    return [
        path for path in JINFER if path.relative_to(REPOSITORY / "jinfer").with_suffix("").parts[0] == name
    ]


@pytest.mark.parametrize("folder", ["requests", "text", "scheduling", "engine"])
def test_the_host_runs_without_jax(folder):
    paths = sorted((REPOSITORY / "jinfer" / folder).rglob("*.py"))
    assert len(paths) > 3
    assert importers(paths, "pallas_kernels") == importers(paths, "flax") == []
    assert importers(sorted(reached_from(paths)), "jax") == []
    assert not [
        path for path in paths if "jinfer" in {name for name in imported_modules(path) if "." not in name}
    ]


def test_the_load_generator_runs_without_jax():
    paths = sorted((REPOSITORY / "jinfer" / "bench" / "serve").rglob("*.py"))
    assert len(paths) > 3
    assert importers(sorted(reached_from(paths)), "jax") == []


NUMBERS = {"schemes.py"}  # what of quantization is numpy alone
QUANTIZATION_USES = {
    *("errors", "eval", "models", "placement", "progress", "quantization", "text", "weights")
}


def test_codes_and_scales_are_made_without_jax():
    paths = [path for path in sources_of("quantization") if path.name in NUMBERS]
    assert len(paths) == len(NUMBERS)
    assert importers(sorted(reached_from(paths)), "jax") == []


def test_quantization_knows_models_and_weights_and_no_engine():
    paths = sources_of("quantization")
    used = {
        name.split(".")[1]
        for path in paths
        for name in imported_modules(path)
        if name.startswith("jinfer.") and path_of(name) is not None
    }
    assert "models" in used
    assert used - QUANTIZATION_USES == set()
    for package in ("models", "execution", "weights"):
        assert importers(sources_of(package), "jinfer.quantization") == []


ENGINE_PROCESS = {"engine_process.py", "model_info.py"}  # what of the server runs beside the device
SERVER_USES = {
    "async_queue",
    "child_environment",
    "config",
    "engine",
    "errors",
    "options",
    "requests",
    "server",
    "startup",
    "text",
}


def test_the_front_of_the_server_runs_without_jax():
    front = [path for path in sources_of("server") if path.name not in ENGINE_PROCESS]
    assert len(front) > 5
    assert importers(front, "jinfer.startup") == []
    assert importers(sorted(reached_from(front)), "jax") == []


def test_the_server_uses_the_engine_and_no_part_of_it():
    used = {
        name.split(".")[1]
        for path in sources_of("server")
        for name in imported_modules(path)
        if name.startswith("jinfer.") and path_of(name) is not None
    }
    assert used - SERVER_USES == set()


def test_the_routes_know_the_service_and_no_engine():
    routes = sorted((REPOSITORY / "jinfer" / "server" / "routes").glob("*.py"))
    assert len(routes) > 4
    assert importers(routes, "jinfer.engine") == importers(routes, "jinfer.async_queue") == []


@pytest.mark.parametrize("package", ["jinfer.models", "jinfer.execution", "jinfer.config"])
@pytest.mark.parametrize("name", ["weights", "compilation", "placement"])
def test_what_every_kind_of_model_shares_knows_none(name, package):
    paths = sources_of(name)
    assert paths
    assert importers(paths, package) == []


FRONT_DOOR = {
    *("config", "engine", "errors", "llm", "options", "placement", "progress", "requests", "server"),
    "startup",
}
BEYOND_THE_FRONT_DOOR = {
    "cli/chat_parts.py": {  # reads answers as the server does
        "text.detokenizer",
        "text.output_parsing.answer_parsing",
        "text.output_parsing.deltas",
        "text.output_parsing.format_choice",
        "text.placed_token",
        "text.tokenizer",
    },
    "cli/command.py": {"bench.cli"},  # `jinfer bench` is one of the commands
    "cli/convert.py": {
        "bench.arguments",
        "models.model",
        "models.multimodal",
        "models.registry",
        "quantization.checkpoint",
        "quantization.options",
        "quantization.schemes",
        "weights.choice",
        "weights.fitted_weights",
        "weights.hub",
        "weights.new_directory",
        "weights.orbax",
        "weights.params",
    },  # files only, no engine
    "cli/eval.py": {
        "bench.arguments",
        "bench.circumstances",
        "bench.json_lines",
        "eval.compare",
        "eval.continuations",
        "eval.engine_run",
        "eval.perplexity",
        "eval.tokenized_text",
        "eval.windows",
    },  # `jinfer eval` is one, which writes JSON as `jinfer bench` does
    "eval/compare.py": {"loading", "text.tokenizer"},  # two models' tokenizers must be equal
    "eval/divergence.py": {"models.model", "models.params", "weights.params"},  # logits of hidden states
    "eval/engine_run.py": {"loading"},
    "eval/hidden_states.py": {
        "batching.buckets",
        "compilation.program",
        "execution.compiled_steps",
        "execution.scored_step",
        "scheduling.scheduler",
        "scheduling.step_plan",
    },  # the part of a scored step that gives hidden states, compiled alone
    "eval/tokenized_text.py": {"text.tokenizer"},
    "bench/attention_work.py": {"models.config"},  # counts parameters by the kind of attention
    "bench/opening.py": {
        "execution.kv_cache",
        "models.config",
        "models.params",
        "pallas_kernels.core.weights",
        "weights.hub",
        "weights.params",
    },  # the layout of --config's cache, its config.json, its weights' types and the experts in them
    "bench/profile.py": {
        "scheduling.step_plan"
    },  # describes the plans that pass between an engine's stations
    "bench/roofline.py": {
        "execution.kv_cache",
        "models.config",
    },  # counts a step's bytes by the model's shape
    "bench/steady.py": {
        "execution.device_state",
        "scheduling.step_plan",
    },  # repeats a step of an engine's executor
}


@pytest.mark.parametrize("folder", ["cli", "bench", "eval"])
def test_commands_use_the_front_door(folder):
    """And what the list names beyond it, each with its reason."""
    found = {}
    for path in sources_of(folder):
        modules = {
            name.removeprefix("jinfer.") for name in imported_modules(path) if path_of(name) is not None
        }
        beyond = {name for name in modules if name.split(".")[0] not in FRONT_DOOR | {folder, "jinfer"}}
        beyond -= {name for name in beyond if (REPOSITORY / "jinfer" / name.replace(".", "/")).is_dir()}
        found |= {f"{folder}/{path.name}": beyond} if beyond else {}
    assert found == {
        name: modules for name, modules in BEYOND_THE_FRONT_DOOR.items() if name.startswith(folder)
    }


@pytest.mark.parametrize(
    ("folder", "others"),
    [
        (
            "models",
            (
                "batching",
                "cli",
                "bench",
                "engine",
                "execution",
                "llm",
                "loading",
                "requests",
                "scheduling",
                "startup",
            ),
        ),
        ("execution", ("cli", "bench", "llm", "async_llm", "loading", "startup", "requests", "text")),
    ],
)
def test_execution_uses_models_and_not_back(folder, others):
    paths = sources_of(folder)
    assert len(paths) > 5
    for other in others:
        assert importers(paths, f"jinfer.{other}") == []


def test_models_and_execution_use_the_kernels():
    assert importers(sources_of("models"), "pallas_kernels")
    assert importers(sources_of("execution"), "jinfer.models")


PLACING = {
    "devices",
    "local_devices",
    "device_put",
    "default_device",
    "default_backend",
    "make_mesh",
    "Mesh",
    "NamedSharding",
    "PartitionSpec",
    "PositionalSharding",
    "SingleDeviceSharding",
}


def placing_calls(source: str) -> list[str]:
    """Where a source asks JAX for devices, makes a sharding or puts an array somewhere; an array's own
    `devices()` is another method."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in PLACING:
            name = ast.unparse(node)
            found += [f"line {node.lineno}: {name}"] if name.split(".")[0] == "jax" else []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            found += [f"line {node.lineno}: {alias.name}" for alias in node.names if alias.name in PLACING]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "jax.devices()[0]",
        "jax.local_devices()",
        "jax.device_put(x, y)",
        "jax.sharding.SingleDeviceSharding(x)",
        "from jax.sharding import NamedSharding",
        "from jax import make_mesh",
    ],
)
def test_a_planted_placing_call_is_found(source):
    assert len(placing_calls(source)) == 1
    assert placing_calls("x.devices(); self.default_device") == []


def test_placement_alone_asks_for_devices_and_makes_shardings():
    placing = {
        path.relative_to(REPOSITORY): placing_calls(path.read_text(encoding="utf-8")) for path in JINFER
    }
    assert placing.pop(Path("jinfer", "placement.py"))
    assert {path: calls for path, calls in placing.items() if calls} == {}


def is_foreign(name: str, operation: str) -> bool:
    """True for what a file of an operation may not import: more of another operation than its public
    functions."""
    first, *rest = name.removeprefix("pallas_kernels.").split(".")
    if not name.startswith("pallas_kernels.") or first not in OPERATIONS or first == operation:
        return False
    public = importlib.import_module(f"pallas_kernels.{first}").__all__
    return rest != [] and (len(rest) > 1 or rest[0] not in public)


def test_the_operations_are_found():
    assert len(OPERATIONS) > 8
    assert {"matmul", "paged_attention", "latent_attention"} <= set(OPERATIONS)
    assert is_foreign("pallas_kernels.rms_norm.triton", "matmul")
    assert is_foreign("pallas_kernels.rms_norm.triton.rms_norm", "matmul")
    assert not is_foreign("pallas_kernels.rms_norm.rms_norm", "matmul")
    assert not is_foreign("pallas_kernels.core.selection.select", "matmul")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_imports_no_internals_of_another(operation):
    for path in sorted((PALLAS_KERNELS / operation).rglob("*.py")):
        foreign = [name for name in imported_modules(path) if is_foreign(name, operation)]
        assert foreign == [], path


def test_the_core_imports_no_operation():
    core = sorted((PALLAS_KERNELS / "core").rglob("*.py"))
    assert core
    for operation in OPERATIONS:
        assert importers(core, f"pallas_kernels.{operation}") == []


def test_operations_and_core_are_all_there_is():
    """So that a list of the folder is a list of the operations."""
    assert {path.name for path in PALLAS_KERNELS.glob("*.py")} == {"__init__.py"}
    for operation in OPERATIONS:
        assert importlib.import_module(f"pallas_kernels.{operation}").__all__, operation


def test_no_model_asks_for_a_reference():
    """A reference is for tests, and may be slow."""
    for path in JINFER:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Constant) or node.value != "reference", (
                f"{path}, line {node.lineno}"
            )


@pytest.mark.parametrize(
    "package", ["pickle", "dill", "cloudpickle", "marshal", "shelve", "torch", "transformers"]
)
def test_nothing_imports_what_runs_code_from_data(package):
    assert importers(JINFER + KERNELS, package) == []


@pytest.mark.parametrize("path", JINFER + KERNELS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_evaluates_strings_or_allows_pickles(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}, f"line {node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg not in {"allow_pickle", "trust_remote_code"}, f"line {node.value.lineno}"
