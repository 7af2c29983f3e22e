"""The options of an engine, in parts, and the sizes that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jinfer.errors import ConfigError, shown
from jinfer.options import CompilerValue, Option, check_options, option, options_of

Kernels = Literal["auto", "pallas", "xla"]
DType = Literal["bfloat16", "float32"]
KVCacheDType = Literal["auto", "int8", "fp8_e4m3"]
Quantization = Literal["int8", "fp8", "int4"]
SplitStepsCompilation = Literal["on_demand", "in_background", "at_start"]
SchedulingPolicy = Literal["mixed", "prefill_first", "decode_first"]


@dataclass(frozen=True)
class ModelOptions:
    """The computation of a model, and the source of its weights. Raises ConfigError for a malformed
    option."""

    dtype: DType | None = option(None, help="default: bfloat16 on a GPU, float32 on a CPU")
    """Type of weights and activations, and of the KV cache where `kv_cache_dtype` is "auto". Default:
    bfloat16 on a GPU, float32 on a CPU."""
    kernels: Kernels = option("auto", help="default: pallas on a GPU, xla elsewhere")
    """Implementation of all operations. "pallas" is the fastest for each call on a GPU: a kernel of
    pallas_kernels in Triton or Mosaic, or XLA where that is faster, as it is for products of many rows. "xla"
    is XLA alone. "auto" is "pallas" on a GPU and "xla" elsewhere; a CPU interprets "pallas", which is slow
    and meant for tests."""
    quantization: Quantization | None = option(
        None, help="quantize weights while they are loaded; default: as they are stored"
    )
    """Quantize the products' weights while they are loaded: "int8" and "fp8" with a scale for each output,
    and activations in the same by a scale for each token (W8A8); "int4" with a scale for 128 inputs of an
    output, and activations as they are (W4A16). Default: weights are served as they are stored, those of a
    quantized checkpoint in its own type. docs/quantization.md says which is good for what."""
    dummy_weights: bool = option(False, help="random weights; the model needs only a config.json")
    """Random weights in place of a checkpoint: for benchmarks of shapes, with nothing but a config.json."""
    dummy_weights_seed: int = option(0, minimum=0, help="seed of the random weights", metavar="N")
    routed_experts: bool = option(False, help="bring the experts of every token to the host; default: no")
    """Bring the experts of every token to the host, of a model that has some: outputs have them
    (`CompletionOutput.routed_experts`), and the engine counts the tokens of each (`EngineStats` and
    /metrics). A step then copies 2 bytes a token, layer and expert of it more. Requests that need steps in
    two halves (penalties, biases, structured outputs, log probabilities of prompts) are refused."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class CacheOptions:
    """The KV cache, and the memory that it takes. Raises ConfigError for a malformed option."""

    page_size: int = option(16, help="tokens in a page; default 16", metavar="N")
    """Positions in a page of the KV cache."""
    num_pages: int | None = option(None, help="default: what the memory holds", metavar="N")
    """Pages in the KV cache, the null page included. Default: what fits into `gpu_memory_utilization` of the
    device."""
    max_model_len: int | Literal["auto"] | None = option(
        None, help="default, and auto: the model's, if memory holds it", metavar="N"
    )
    """Longest prompt plus output, in tokens. "auto": the model's context, or what the pages hold if that is
    less. Default: the same, and it is said aloud if it is less."""
    gpu_memory_utilization: float = option(
        0.9, help="share of the device's memory that is in use after the start; default 0.9", metavar="SHARE"
    )
    """Share of the memory that is in use when the engine has started: its weights, workspace and pages, and
    what this process used before, such as another engine. So a second engine needs a larger share than the
    first, and 0.9 for each is too much for two. The share is of what JAX may use of the GPU, which is 75% of
    it unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise; on a CPU, of the host's available memory."""
    prefix_caching: bool = option(
        True, help="keep what was computed for prompts that begin the same; default: yes"
    )
    """Keep the keys and values of what was computed as long as there is room, for requests that begin the
    same."""
    kv_cache_dtype: KVCacheDType = option("auto", help="type of keys and values; default: dtype")
    """Type of the keys and values in the cache. "int8" and "fp8_e4m3" take a byte for each, and 4 bytes for
    the scale of a head's vector at a position: 1.94 times as many tokens fit as in bfloat16 where heads have
    128 elements, and attention reads half as much. int8 is the more accurate of the two. A checkpoint's
    calibrated scales are used where they are for this type. "auto" is `dtype`."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.num_pages is not None and self.num_pages < 2:
            raise ConfigError(
                f"num_pages={self.num_pages}: page 0 takes the writes of padding, so at least 2 are needed"
            )
        share = self.gpu_memory_utilization
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise ConfigError(
                f"gpu_memory_utilization={shown(share)} must be a share of the device's memory in (0, 1]"
            )


@dataclass(frozen=True)
class SchedulerOptions:
    """The sizes and the order of steps. Raises ConfigError for a malformed option."""

    max_num_seqs: int | None = option(None, help="default: 256 on a GPU, 8 on a CPU", metavar="N")
    """Sequences that run at the same time. Default: 256 on a GPU, 8 on a CPU."""
    max_num_batched_tokens: int | None = option(
        None, help="default: 4096 on a GPU, 256 on a CPU", metavar="N"
    )
    """Tokens in one step, and so the longest chunk of a prompt. Default: 4096 on a GPU, 256 on a CPU."""
    scheduling_policy: SchedulingPolicy = option(
        "mixed", help="which steps compute prompts, and which decode"
    )
    """The steps in which prompts are computed, and those in which tokens are decoded:
    jinfer/scheduling/policies.py says what each is good for, and who waits for whom."""
    overlap: bool = option(True, help="plan each step before the one before it is read; default: yes")
    """Plan and dispatch a step before the one before it is read, so that the device does not wait for the
    host. Without it tokens are the same, and later: for debugging, and to see what overlap is worth."""

    def __post_init__(self) -> None:
        check_options(self)


def _is_compiler_option(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and name != "" and isinstance(value, CompilerValue)


@dataclass(frozen=True)
class CompilerOptions:
    """The compilation of steps, and the directory where they are kept. Raises ConfigError for a malformed
    option."""

    compiler_options: Mapping[str, CompilerValue] = option(
        {},
        flag="--compiler-option",
        help="an option of XLA; may be given several times",
        metavar="NAME=VALUE",
    )
    """Options of XLA for the steps of this engine, in place of jinfer's own of the same name.
    {"xla_gpu_enable_command_buffer": ""} launches each kernel by itself, without CUDA graphs: for
    debugging."""
    compilation_cache: bool = option(True, help="keep compiled steps on disk; default: yes")
    """Keep compiled steps on disk, for the next start."""
    compilation_cache_dir: str | None = option(
        None, help="default: JAX's, or ~/.cache/jinfer/compiled", metavar="DIR"
    )
    """Directory of compiled steps. Default: JAX's own (JAX_COMPILATION_CACHE_DIR) if it is set, where JAX
    keeps them as its own options say, else, on a GPU, ~/.cache/jinfer/compiled."""
    compile_split_steps: SplitStepsCompilation = option(
        "on_demand",
        help="when to compile what penalties, biases, masks and structured outputs need; default: with the "
        "first request that asks for one, and for serve behind the start",
    )
    """When to compile what steps in two halves need: those with penalties, biases, allowed or bad words,
    structured outputs, or processed log probabilities. It takes about as long as the start does. "on_demand"
    lets the first request that asks wait for it, while others go on; "in_background" begins when the engine
    has started, as a server does; "at_start" lets the start wait, so that no request does. It always waits
    for a model whose generation_config.json has a repetition_penalty."""

    def __post_init__(self) -> None:
        check_options(self)
        if not isinstance(self.compilation_cache_dir, str | None) or self.compilation_cache_dir == "":
            raise ConfigError(
                f"compilation_cache_dir={shown(self.compilation_cache_dir)} must be the name of a directory"
            )
        options = self.compiler_options
        if not isinstance(options, Mapping) or not all(map(_is_compiler_option, options.items())):
            raise ConfigError(
                f"compiler_options={shown(options)} must map the names of XLA's options to strings or "
                "booleans"
            )


@dataclass(frozen=True, init=False)
class EngineConfig:
    """The options of an engine by name: `EngineConfig(page_size=4).page_size`. Inside they are in parts, each
    for the modules that read it.

    `None` leaves a choice to the engine, which decides by the model and the device.
    """

    model: ModelOptions
    cache: CacheOptions
    scheduler: SchedulerOptions
    compiler: CompilerOptions
    progress: bool = option(True, help="bars and figures on stderr while it runs; default: in a terminal")
    """Progress bars, on stderr or in the notebook."""

    def __init__(self, **options: Any) -> None:
        """Raises ConfigError for an unknown option, with the known ones, and for one that is malformed."""
        known = self.options()
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown engine option {name!r}; the options are {', '.join(known)}")
        for name, part in PARTS.items():
            given = {each.name: options[each.name] for each in options_of(part) if each.name in options}
            object.__setattr__(self, name, part(**given))
        object.__setattr__(self, "progress", options.get("progress", known["progress"].default))
        check_options(self)

    if not TYPE_CHECKING:  # jinfer itself asks the parts, and mypy sees that it does

        def __getattr__(self, name: str) -> Any:
            """An option of a part, for callers who know options by their names."""
            for part, fields in PARTS.items():
                if name in fields.__dataclass_fields__ and part in self.__dict__:
                    return getattr(self.__dict__[part], name)
            raise AttributeError(f"{type(self).__name__} has no option {name!r}")

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Every option of an engine, by name."""
        return {each.name: each for part in (*PARTS.values(), cls) for each in options_of(part)}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "EngineConfig":
        """The config of keyword arguments; an unknown name is an error that lists the known ones."""
        return cls(**options)


PARTS: dict[str, type] = {
    "model": ModelOptions,
    "cache": CacheOptions,
    "scheduler": SchedulerOptions,
    "compiler": CompilerOptions,
}


@dataclass(frozen=True)
class EngineLimits:
    """The sizes of a running engine, and the type of its cache: its options with every choice made."""

    page_size: int
    num_pages: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    kv_cache_dtype: KVCacheDType = "auto"
    num_experts: int | None = None
    """The experts of a layer, where those of each token come to the host."""

    @property
    def pages_per_sequence(self) -> int:
        """Entries in a row of the page table."""
        return self.pages_for(self.max_model_len)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` positions."""
        return -(-num_tokens // self.page_size)
