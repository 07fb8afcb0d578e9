#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates it, installs this checkout on every worker, runs, and deletes the slice at the end.
#
#     launch/tpu_pod.sh create                                            makes the slice and installs
#     launch/tpu_pod.sh run --config=configs/parity.py --workdir=DIR …    trains on all workers; again: goes on
#     launch/tpu_pod.sh stop                                              makes a run save and end
#     launch/tpu_pod.sh delete                                            removes the slice
#     launch/tpu_pod.sh all --config=configs/parity.py --workdir=DIR …    create, run, and delete, whatever happens
#
#     NAME=retune-jax ZONE=us-east5-a TYPE=v5p-32 VERSION=v2-alpha-tpuv5 [SPOT=yes] [MOUNT=host:/share] before any of them
#
# What follows `run` goes to `python -m retune_jax.train` as it is. --workdir has to lie on a folder that all workers share:
# MOUNT=10.0.0.2:/share mounts that NFS share (Filestore) as /mnt/runs. Ctrl-C of `run` makes all workers save and end.
set -euo pipefail

name=${NAME:-retune-jax}
zone=${ZONE:-us-east5-a}
type=${TYPE:-v5p-32}
version=${VERSION:-v2-alpha-tpuv5}
here=$(cd "$(dirname "$0")/.." && pwd)

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
}

on_all() { # a command line for every worker's shell
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

create() {
    local spot=()
    if [[ -n ${SPOT:-} ]]; then spot=(--spot); fi
    gcloud compute tpus tpu-vm create "$name" --zone="$zone" --accelerator-type="$type" --version="$version" "${spot[@]}"
    local packed
    packed=$(mktemp -d)
    git -C "$here" archive --format=tar.gz --prefix=retune_jax/ --output="$packed/retune_jax.tar.gz" HEAD
    gcloud compute tpus tpu-vm scp "$packed/retune_jax.tar.gz" "$name:" --zone="$zone" --worker=all
    rm -r "$packed"
    on_all "tar xzf retune_jax.tar.gz && python3 -m venv venv && venv/bin/pip install --quiet ./retune_jax 'jax[tpu]'"
    if [[ -n ${MOUNT:-} ]]; then
        on_all "sudo apt-get install -qq nfs-common && sudo mkdir -p /mnt/runs && sudo mount '$MOUNT' /mnt/runs && sudo chmod 1777 /mnt/runs"
    fi
}

run() {
    local words
    words=$(printf ' %q' "$@")
    # A process that is left over from a lost connection would hold the TPU and the run's folder: it is stopped first.
    trap stop INT TERM
    on_all "$(stop_command); cd retune_jax && exec ../venv/bin/python -m retune_jax.train$words" &
    local connection=$! code
    while true; do
        code=0
        wait "$connection" || code=$?
        if ! kill -0 "$connection" 2>/dev/null; then break; fi # the trap ends `wait` early
    done
    trap - INT TERM
    return "$code"
}

stop_command() { # SIGTERM to the run of this user, and up to three minutes for it to save
    echo "for process in \$(pgrep -u \$USER -f '[r]etune_jax.train'); do kill -TERM \$process; tail --pid=\$process -f /dev/null; done"
}

stop() {
    on_all "$(stop_command)"
}

delete() {
    gcloud compute tpus tpu-vm delete "$name" --zone="$zone" --quiet
}

action=${1:-}
shift || true
case $action in
    create | stop | delete) "$action" ;;
    run) (($#)) || usage; run "$@" ;;
    all)
        (($#)) || usage
        trap delete EXIT
        create
        run "$@"
        ;;
    *) usage ;;
esac
