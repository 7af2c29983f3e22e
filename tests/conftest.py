"""What all tests share: where the real data is, and tiny models that are real in every part."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before huggingface_hub is imported: no test may reach the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not any(map(os.path.exists, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))):  # where JAX looks for a GPU
    # Else its CUDA plugin, there to compile for an H200, complains.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

# A shell starts what runs in the background with SIGINT ignored, which a process hands on to those that it
# starts: commands that are tested would not see their Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import jaxtyping
import pytest

# Shapes and dtypes in signatures are checked while the tests run, and free in production. The kernels are not
# in the list: their public functions check their arguments themselves, and the tests want to see those
# errors.
CHECKED = (
    "jinfer.models",
    "jinfer.weights",
    "jinfer.sampling",
    "jinfer.batching",
    "jinfer.execution",
    "jinfer.compilation",
)
with jaxtyping.install_import_hook(CHECKED, "beartype.beartype"):
    import jinfer.async_llm
    import jinfer.cli.command
    import jinfer.weights.orbax  # noqa: F401  # everything else

# Engines of the same shapes are compiled once, and not in every test: most of the time that tests take is
# XLA's. Each process has a cache of its own, for JAX does not lock what it writes there.
CACHE = tempfile.TemporaryDirectory(prefix="jinfer-tests-xla-")
jax.config.update("jax_compilation_cache_dir", CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Nor is a CPU's code optimized, which takes LLVM longer than it saves: most programs here run a few times.
# And XLA's older emitters make code in a third of the time; jaxlib 0.11 has them no more, nor the flag, and
# ends the process for a flag that it does not know. Both only in this process, in those that look for what it
# has compiled, and in notebooks: what compiles for an H200 does as users' programs do.
NEWER_EMITTERS = "xla_cpu_use_fusion_emitters"
# A program is one module for LLVM, and not one for each core: a fifth less to do.
ONE_PART = "xla_cpu_parallel_codegen_split_count=1"
# On a GPU XLA would try several kernels for each product, which is most of the time that it takes there: it
# takes its first choice, and no product of Triton's, as the engine. And each process of the tests has its
# share of the cores: 31 with 32 threads each, which start an assembler each, may leave none of the 32,768
# process ids that Linux has.
NUM_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
ON_A_GPU = (
    "xla_gpu_autotune_level=0",
    "xla_gpu_enable_triton_gemm=false",
    f"xla_gpu_force_compilation_parallelism={max(1, (os.cpu_count() or 1) // NUM_PROCESSES)}",
)
COMPILES_FAST: dict[str, str] = {}
flags: tuple[str, ...] = ON_A_GPU
if jax.config.jax_platforms == "cpu":
    COMPILES_FAST["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    flags = (f"{NEWER_EMITTERS}=false", ONE_PART) if jax.__version_info__ < (0, 11) else ()
if flags:
    COMPILES_FAST["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *(f"--{flag}" for flag in flags)))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XLA_FLAGS", COMPILES_FAST["XLA_FLAGS"])
        jax.devices()  # XLA reads its flags once

# Linux gives a process 65,530 mappings (vm.max_map_count), and each function that XLA compiles for a CPU
# takes three of them. All tests compile more than that: XLA then fails to load its code, and dies of the
# exception that would say so.
MANY_MAPPINGS = 20_000
MAPPINGS = Path("/proc/self/maps")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real checkpoints, tokenizers and texts that a developer has beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data in {SHARED_DATA.parent.name}/{SHARED_DATA.name} beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def stories260k(shared_data: Path) -> Path:
    """A real trained Llama of 260 thousand parameters, with its golden text."""
    return shared_data / "models" / "stories260K"


@pytest.fixture(scope="session")
def users_compiler_options() -> dict[str, bool]:
    """For tests of what XLA makes of a program, and not only of what the program does."""
    return {NEWER_EMITTERS: True} if jax.__version_info__ < (0, 11) else {}


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Torch's threads cost more than they bring on models as small as the tests'."""
    torch = pytest.importorskip("torch")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped() -> Iterator[None]:
    """After a file of tests that leaves many behind."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MANY_MAPPINGS:
        jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip, with the reason, where JAX finds no GPU."""
    if jax.default_backend() == "gpu":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
