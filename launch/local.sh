#!/usr/bin/env bash
# Trains on N processes of this machine, each with an equal share of its GPUs (all that CUDA_VISIBLE_DEVICES names, or
# that nvidia-smi lists; fewer GPUs than processes, or none: they all compute on the CPU's cores).
#
#     launch/local.sh N --config=configs/parity.py [--workdir=DIR] [--config.KEY=VALUE …]
#     launch/local.sh 8 --config=configs/parity.py:model=llama_7b --config.base=DIR --config.mesh.fsdp=8
#     MODULE=retune_jax.evaluate launch/local.sh 2 --workdir=DIR --lengths=1:60
#
# What follows N goes to `python -m retune_jax.train` as it is. Ctrl-C or SIGTERM makes all processes save and end; the same
# command goes on from there. The exit code is that of the first process that failed. PYTHON names another interpreter.
set -euo pipefail

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
processes=$1
shift

python=${PYTHON:-python}
module=${MODULE:-retune_jax.train}
port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$processes

gpus=()
if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
share=$((${#gpus[@]} / processes))

children=()
# shellcheck disable=SC2317  # called by the trap
pass_on() { # every signal becomes a SIGTERM to all: one of them would do, but it may not have got that far
    for child in "${children[@]}"; do kill -TERM "$child" 2>/dev/null || true; done
}
trap pass_on INT TERM HUP

for ((i = 0; i < processes; i++)); do
    if ((share > 0)); then
        mine=("${gpus[@]:i*share:share}")
        visible=$(IFS=,; echo "${mine[*]}")
        JAX_PROCESS_ID=$i CUDA_VISIBLE_DEVICES=$visible "$python" -m "$module" "$@" &
    else
        JAX_PROCESS_ID=$i "$python" -m "$module" "$@" &
    fi
    children+=($!)
done

code=0
for ((ended = 0; ended < processes; )); do
    status=0
    wait -n -p child "${children[@]}" || status=$?
    if [[ -z ${child:-} ]] || kill -0 "$child" 2>/dev/null; then continue; fi # a trap ends `wait` early
    ended=$((ended + 1))
    left=()
    for other in "${children[@]}"; do if [[ $other != "$child" ]]; then left+=("$other"); fi; done
    children=("${left[@]}")
    if ((code == 0 && status != 0)); then
        code=$status
        if ((code != 130 && code != 143)); then # failed: whoever still waits for it is told, those that know it end by themselves
            sleep 5
            pass_on
        fi
    fi
done
exit "$code"
