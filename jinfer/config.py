"""What the user may choose about an engine, and the limits that follow from it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jinfer.errors import ConfigError, shown

Kernels = Literal["auto", "pallas", "xla"]
DType = Literal["bfloat16", "float32"]
SchedulingPolicy = Literal["mixed", "prefill_first", "decode_first"]

LARGEST_INTEGER = 2**31 - 1  # of what the device counts in int32: pages, positions, rows


@dataclass(frozen=True)
class EngineConfig:
    """The options of an engine. `None` leaves a choice to the engine, which decides by the model and the device.

    Raises ConfigError when an option is unknown, malformed or contradicts another.
    """

    dtype: DType | None = None
    """Of weights, activations and the KV cache. Default: bfloat16 on a GPU, float32 on a CPU."""
    page_size: int = 16
    """Positions in a page of the KV cache."""
    num_pages: int | None = None
    """Pages in the KV cache, the null page included. Default: what fits into `gpu_memory_utilization` of the device."""
    max_num_seqs: int | None = None
    """Sequences that run at the same time. Default: 256 on a GPU, 8 on a CPU."""
    max_num_batched_tokens: int | None = None
    """Tokens in one step, and so the longest chunk of a prompt. Default: 4096 on a GPU, 256 on a CPU."""
    max_model_len: int | Literal["auto"] | None = None
    """Longest prompt plus output, in tokens. "auto": the model's context, or what the pages hold if that is less.
    Default: the same, and it is said aloud if it is less."""
    gpu_memory_utilization: float = 0.9
    """Share of the memory that is in use when the engine has started: its weights, workspace and pages, and what this
    process used before, such as another engine. So a second engine needs a larger share than the first, and 0.9 for
    each is too much for two. The share is of what JAX may use of the GPU, which is 75% of it unless
    XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise; on a CPU, of the host's available memory."""
    prefix_caching: bool = True
    """Keep the keys and values of what was computed as long as there is room, for requests that begin the same."""
    scheduling_policy: SchedulingPolicy = "mixed"
    """In which steps prompts are computed, and in which tokens are decoded: jinfer/scheduling/policies.py says what
    each is good for, and who waits for whom."""
    overlap: bool = True
    """Plan and dispatch a step before the one before it is read, so that the device does not wait for the host. Without
    it tokens are the same, and later: for debugging, and to see what overlap is worth."""
    kernels: Kernels = "auto"
    """Implementation of all operations. "pallas" is the fastest for each call on a GPU: a kernel of pallas_kernels in
    Triton or Mosaic, or XLA where that is faster, as it is for products of many rows. "xla" is XLA alone. "auto" is
    "pallas" on a GPU and "xla" elsewhere; a CPU interprets "pallas", which is slow and meant for tests."""
    cuda_graphs: bool = True
    """Capture the kernels of a step as CUDA graphs. Without them each kernel is launched by the host: for debugging."""
    gemm_autotuning: bool = False
    """Compile with XLA's own defaults, which search for GEMM kernels: up to half a minute a shape, and from 64 rows on
    slower steps than with the options that jinfer compiles with."""
    compilation_cache: bool = True
    """Keep compiled steps on disk, for the next start."""
    compilation_cache_dir: str | None = None
    """Where. Default: JAX's own (JAX_COMPILATION_CACHE_DIR) if it is set, else, on a GPU, ~/.cache/jinfer/compiled."""
    dummy_weights: bool = False
    """Random weights in place of a checkpoint: for benchmarks of shapes, with nothing but a config.json."""
    dummy_weights_seed: int = 0
    progress: bool = True
    """Progress bars, on stderr or in the notebook."""

    def __post_init__(self) -> None:
        _check_choice("dtype", self.dtype, (*get_args(DType), None))
        _check_choice("kernels", self.kernels, get_args(Kernels))
        _check_choice("scheduling_policy", self.scheduling_policy, get_args(SchedulingPolicy))
        switches = "prefix_caching", "overlap", "cuda_graphs", "gemm_autotuning", "compilation_cache"
        for name in (*switches, "dummy_weights", "progress"):
            _check_choice(name, getattr(self, name), (True, False))
        if not isinstance(self.compilation_cache_dir, str | None) or self.compilation_cache_dir == "":
            raise ConfigError(
                f"compilation_cache_dir={shown(self.compilation_cache_dir)} must be the name of a directory"
            )
        for name in ("page_size", "num_pages", "max_num_seqs", "max_num_batched_tokens"):
            _check_positive_integer(name, getattr(self, name), optional=name != "page_size")
        if self.max_model_len != "auto":
            _check_positive_integer("max_model_len", self.max_model_len, optional=True, others=("auto",))
        if self.num_pages is not None and self.num_pages < 2:
            raise ConfigError(
                f"num_pages={self.num_pages}: page 0 takes the writes of padding, so at least 2 are needed"
            )
        seed = self.dummy_weights_seed
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_INTEGER:
            raise ConfigError(f"dummy_weights_seed={shown(seed)} must be an integer from 0 to {LARGEST_INTEGER}")
        share = self.gpu_memory_utilization
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise ConfigError(f"gpu_memory_utilization={shown(share)} must be a share of the device's memory in (0, 1]")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "EngineConfig":
        """The config of keyword arguments; an unknown name is an error that lists the known ones."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown engine option {name!r}; the options are {', '.join(known)}")
        return cls(**options)


@dataclass(frozen=True)
class Limits:
    """The sizes of a running engine: EngineConfig with every choice made."""

    page_size: int
    num_pages: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int

    @property
    def pages_per_sequence(self) -> int:
        """Entries in a row of the page table."""
        return self.pages_for(self.max_model_len)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` positions."""
        return -(-num_tokens // self.page_size)


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not isinstance(value, str | bool | None) or value not in choices:
        raise ConfigError(f"{name}={shown(value)} must be one of {', '.join(map(repr, choices))}")


def _check_positive_integer(name: str, value: Any, *, optional: bool, others: tuple[str, ...] = ()) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_INTEGER:
        choices = "".join(f" or {x!r}" for x in others)
        raise ConfigError(f"{name}={shown(value)} must be an integer from 1 to {LARGEST_INTEGER}{choices}")
