"""Compiles programs for an H200 on a machine without one, and tells what became of their kernels.

It takes JAX's CUDA plugin, which needs no GPU to compile, and NVIDIA's assembler: `pip install -e ".[h200]"`.
XLA runs the assembler as a program; it is given a stand-in that keeps every kernel's PTX and what the
assembler says of it.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import multiprocessing
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MAX_SHARED_MEMORY_BYTES = 232_448  # that a block may ask for
# Without the versions XLA takes the driver and the toolkit for infinitely old, and puts no custom calls,
# matmuls or conditionals into CUDA graphs; jax 0.11 asks for that of the toolkit as well.
DESCRIPTION = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {MAX_SHARED_MEMORY_BYTES}
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150000000000
  cuda_compute_capability {{ major: 9 minor: 0 }}
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "NVIDIA H200"
"""
STAND_IN = """#!/bin/sh
case "$1" in -*) exec "{ptxas}" "$@" ;; esac
cp "$1" "{record}/$$.ptx"
"{ptxas}" -v "$@" 2> "{record}/$$.log"
status=$?
cat "{record}/$$.log" >&2
exit $status
"""
LAUNCH = re.compile(r"\] (\S+) grid: \[([\d, ]+)\] threads: \[([\d, ]+)\] +shared_memory: (\d+)")


@dataclass(frozen=True)
class CompiledKernel:
    """What one launch asks of the GPU, and the instructions it is made of."""

    name: str
    grid: tuple[int, ...]
    num_threads: int
    shared_memory_bytes: int
    registers: int
    spill_bytes: int
    ptx: str

    @property
    def num_wgmma(self) -> int:
        """Hopper's tensor-core instructions, on operands in shared memory, by four warps together."""
        return self.ptx.count("wgmma.mma_async")

    @property
    def num_mma(self) -> int:
        """The older tensor-core instructions, on operands in registers, by each warp."""
        return self.ptx.count("mma.sync.aligned.m")


@dataclass(frozen=True)
class CompiledProgram:
    """`aliased_bytes` of the results are written over donated arguments, and `new_bytes` are not. `thunks` is
    what the host starts, by kind, and `captured` what is within CUDA graphs."""

    kernels: list[CompiledKernel]
    thunks: list[str]
    captured: list[str]
    aliased_bytes: int
    new_bytes: int
    temporary_bytes: int


def what_is_missing() -> str | None:
    """Why nothing can be compiled for an H200 here; None where it can."""
    remedy = 'pip install -e ".[h200]"'
    try:
        plugin_version = importlib.metadata.version("jax-cuda13-plugin")
    except importlib.metadata.PackageNotFoundError:
        return f"needs JAX's CUDA plugin: {remedy}"
    if plugin_version != jax.__version__:
        return f"needs JAX's CUDA plugin {jax.__version__} and finds {plugin_version}: {remedy}"
    return None if find_ptxas() else f"needs NVIDIA's assembler, ptxas: {remedy}"


def find_ptxas() -> Path | None:
    """The one that pip installed, else the system's."""
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages.submodule_search_locations or []) if packages else []:
        installed = Path(folder) / "cu13" / "bin" / "ptxas"
        if installed.is_file():
            return installed
    found = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")
    return Path(found) if found else None


@contextlib.contextmanager
def compiler_process(
    compile_: Callable[..., CompiledProgram] | None = None,
) -> Iterator[Callable[..., CompiledProgram]]:
    """`compile_for_h200`, or what calls it, in a process of its own, which has neither a GPU nor a
    compilation cache.

    On a GPU, XLA would tune there; and a program for an absent one goes into the cache but never comes out of
    it.
    """
    compile_ = compile_ or compile_for_h200
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_start_compiler_process) as process:
        yield lambda *arguments, **options: process.submit(compile_, *arguments, **options).result()


def _start_compiler_process() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_disable_most_optimizations", False)  # whatever other tests tell their children


def compile_for_h200(
    f: Callable,
    *arguments: Any,
    donate: Sequence[int] = (),
    compiler_options: Mapping[str, Any] | None = None,
    **named: Any,
) -> CompiledProgram:
    """Compiles f for arguments (pytrees of ShapeDtypeStruct) of which those numbered in `donate` may be
    overwritten."""
    mesh = _mesh()
    arguments, named = jax.tree.map(functools.partial(_on_device, mesh), (arguments, named))
    with (
        tempfile.TemporaryDirectory(prefix="h200-") as name,
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
    ):
        folder = Path(name)
        options = {
            "xla_dump_to": name,
            "xla_gpu_cuda_data_dir": str(_recording_toolkit(folder)),
            **(compiler_options or {}),
        }
        lowered = (
            jax.jit(f, donate_argnums=donate).trace(*arguments, **named).lower(lowering_platforms=("cuda",))
        )
        memory = lowered.compile(compiler_options=options).memory_analysis()
        thunks, captured = _thunks(folder)
        aliased_bytes = memory.alias_size_in_bytes
        return CompiledProgram(
            _kernels(folder),
            thunks,
            captured,
            aliased_bytes=aliased_bytes,
            new_bytes=memory.output_size_in_bytes - aliased_bytes,
            temporary_bytes=memory.temp_size_in_bytes,
        )


@functools.cache
def _mesh() -> Mesh:
    described = topologies.get_topology_desc("h200", "cuda", target_config=DESCRIPTION, topology="1x1x1")
    return topologies.make_mesh(described, (1,), ("device",))


def _on_device(mesh: Mesh, argument: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(argument.shape, argument.dtype, sharding=NamedSharding(mesh, PartitionSpec()))


def _recording_toolkit(folder: Path) -> Path:
    """A CUDA toolkit of the stand-in alone: XLA looks for everything else elsewhere."""
    stand_in = folder / "bin" / "ptxas"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN.format(ptxas=find_ptxas(), record=folder))
    stand_in.chmod(0o755)
    return folder


def _thunks(folder: Path) -> tuple[list[str], list[str]]:
    """Kinds, of lines at the margin and of those indented. The newest listing says what the graphs have taken
    in."""
    listings = sorted(folder.glob("*thunk_sequence*.txt"), key=lambda file: len(file.name))
    found = re.findall(r"^( *)\d+: (k\w+)", listings[-1].read_text(), re.MULTILINE)
    return [kind for indent, kind in found if not indent], [kind for indent, kind in found if indent]


def _kernels(folder: Path) -> list[CompiledKernel]:
    """The kernels that XLA launches, in order, with what the assembler was given and said."""
    assembled: dict[str, tuple[str, str]] = {}
    for log in folder.glob("*.log"):
        ptx = _by_entry(log.with_suffix(".ptx").read_text(), r"\.entry (\w+)")
        said = _by_entry(log.read_text(), r"Compiling entry function '(\w+)'")
        assembled |= {name: (ptx[name], text) for name, text in said.items()}
    (launches,) = folder.glob("*thunk_sequence.txt")
    return [_kernel(*launch, *assembled[launch[0]]) for launch in LAUNCH.findall(launches.read_text())]


def _by_entry(text: str, heading: str) -> dict[str, str]:
    """ "...entry a...entry b..." -> {"a": ..., "b": ...}"""
    _, *parts = re.split(heading, text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _kernel(name: str, grid: str, threads: str, dynamic_bytes: str, ptx: str, said: str) -> CompiledKernel:
    def number(pattern: str) -> int:
        return sum(int(n) for n in re.findall(pattern, said))

    x, y, z = (int(n) for n in threads.split(","))
    return CompiledKernel(
        name=name,
        grid=tuple(int(n) for n in grid.split(",")),
        num_threads=x * y * z,
        shared_memory_bytes=int(dynamic_bytes) + number(r"(\d+) bytes smem"),
        registers=number(r"Used (\d+) registers"),
        spill_bytes=number(r"(\d+) bytes spill stores"),
        ptx=ptx,
    )
