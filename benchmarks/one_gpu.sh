#!/usr/bin/env bash
# All that is measured on one GPU, in the order that takes the least of its time: the tests beside the soak, the
# blocks of kernels beside its end, and what wants a quiet machine after it. Half an hour on one H200 with 16 cores.
#
#     benchmarks/one_gpu.sh OUT CONFIGS TOKENIZER TEMPLATE
#
# OUT gets a log of each part, and steps.txt a line when it ends: name, exit status, seconds since the start. CONFIGS
# has a directory with a config.json of each model that benchmarks.whole_models names; TOKENIZER is Qwen3's; TEMPLATE
# is a chat template for the shipped model. SOAK_MINUTES (20), TESTS (tests), TEST_PROCESSES (14) and PYTHON (python3)
# may be set. A part that fails stops no other. Results are appended to benchmarks/results, and blocks that were found
# are written into pallas_kernels; read the logs before either is committed.
#
# The structured requests are served twice: first beside the soak, which keeps nothing and fills the compilation cache.
# They share the GPU then, so that both times they get three quarters of it.
set -u
out=$(realpath -m "$1") configs=$(realpath "$2") tokenizer=$(realpath "$3") template=$(realpath "$4")
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
mkdir -p "$out"
export XLA_PYTHON_CLIENT_PREALLOCATE=false

part() { # NAME LIMIT_S COMMAND...
    local name=$1 limit=$2
    shift 2
    timeout -s INT -k 20 "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.log"
    echo "$name $? $SECONDS" >>"$out/steps.txt"
}

tune() { # NAME SECONDS OP CASE...
    local name=$1 seconds=$2 op=$3
    shift 3
    part "$name" $((seconds + 60)) "$python" -m benchmarks.kernels tune "$op" "${@/#/--case=}" --seconds "$seconds"
}

serve_structured() { # NAME REPEATS
    part "$1" 300 "$python" -m benchmarks.serving serve-structured --repeats "$2" --config "$configs/Qwen3-8B" \
        --serve-option "tokenizer=$tokenizer" --serve-option gpu_memory_utilization=0.75
}

cp -r jinfer/demo_model "$out/model"
cp "$template" "$out/model/chat_template.jinja"
minutes=${SOAK_MINUTES:-20}
part soak $((60 * minutes + 300)) "$python" -m benchmarks.soak --minutes "$minutes" --model "$out/model" \
    --serve-option gpu_memory_utilization=0.1 &
soak=$!
part tests 1150 "$python" -m pytest -q -n "${TEST_PROCESSES:-14}" --maxschedchunk=8 -p no:benchmark -rfEs \
    --tb=short ${TESTS:-tests}

serve_structured serve-compiled 1
few_rows=()
for shape in 8192 4096-12288; do
    few_rows+=("quantized-int4-$shape-b"{1,16,64} "quantized-fp8-$shape-b16" "quantized-int8-$shape-b16")
done
tune tune-few-rows 140 quantized_matmul "${few_rows[@]}"
tune tune-decode 40 paged_attention.decode decode-{64x2048,256x1024}-{int8,fp8}
tune tune-grouped 120 grouped_matmul grouped-30b-a3b-{gate-up,down}-{1,8,64,256,4096,4096-in-64,256-in-16,8-in-1}
tune tune-experts 50 experts moe-30b-a3b-{1,8,64,256,4096}
wait "$soak"

serve_structured serve-structured 2
part experts 200 "$python" -m benchmarks.kernels --record --case=moe-30b-a3b-{1,8,64,256,4096} --case=mla-64x4096
part kv8 200 "$python" -m benchmarks.kernels --record --case=kv8-{decode-64x2048,decode-256x1024,extend-1x8192}{,-fp8}
part quantization 400 "$python" -m benchmarks.quantization --record
part whole-models 600 "$python" -m benchmarks.whole_models "$configs" --record
part kv-capacity 100 "$python" -m benchmarks.kv_capacity "$configs/Qwen3-8B" --record
touch "$out/done"
