#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for the tests of launch/slurm.sbatch. Root; Debian: apt-get install slurm-wlm munge.
#
#     tests/slurm_cluster.sh up DIR        starts it; all of it lives in DIR; then SLURM_CONF=DIR/slurm.conf sbatch …
#     tests/slurm_cluster.sh down DIR      stops it, by the process ids it wrote down
#
# Nodes n0 and n1 listen on 127.0.0.2 and .3, each in a mount and a UTS namespace of its own, so that the name is a node's own
# and resolves. Partitions: `low` (default; a job that is preempted has 20 s) and `high`, whose jobs preempt those of `low`.
set -euo pipefail
action=$1 dir=$2
export SLURM_CONF=$dir/slurm.conf
alive() { # whether the process of a file with its id lives, and is no zombie
    local id
    id=$(cat "$1" 2>/dev/null) && [[ -n $id && -r /proc/$id/stat && $(sed 's/.*) //' "/proc/$id/stat" | cut -c1) != Z ]]
}

if [[ $action == down ]]; then
    timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    for ((t = 0; t < 50; t++)); do
        if [[ -z $(timeout 5 squeue -h 2>/dev/null) ]]; then break; fi
        sleep 0.2
    done
    files=("$dir"/slurmctld.pid "$dir"/slurmd.n?.pid "$dir"/munge/munged.pid)
    for signal in TERM KILL; do
        for file in "${files[@]}"; do
            if alive "$file"; then kill -$signal "$(cat "$file")"; fi
        done
        for ((t = 0; t < 50; t++)); do
            left=0
            for file in "${files[@]}"; do if alive "$file"; then left=1; fi; done
            if ((left == 0)); then exit 0; fi
            sleep 0.1
        done
    done
    exit 1
fi

mkdir -p "$dir"/{state,log,munge,spool.n0,spool.n1}
chmod 755 "$dir" "$dir/munge"
here=$(hostname -s) cpus=$(nproc) port=$((20000 + $$ % 20000))
(umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/munged.pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"

: >"$dir/plugstack.conf"
printf '127.0.0.1 localhost %s\n127.0.0.2 n0\n127.0.0.3 n1\n' "$here" >"$dir/hosts"
cat >"$dir/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$here(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/%n
PlugStackConfig=$dir/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
ReturnToService=2
KillWait=10
MailProg=/bin/true
NodeName=n0 NodeHostname=n0 NodeAddr=127.0.0.2 Port=$((port + 1)) CPUs=$cpus State=UNKNOWN
NodeName=n1 NodeHostname=n1 NodeAddr=127.0.0.3 Port=$((port + 2)) CPUs=$cpus State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=1:00:00 State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL MaxTime=1:00:00 State=UP PriorityTier=10 PreemptMode=OFF
EOF
slurmctld
for node in n0 n1; do
    unshare --mount --uts --propagation private sh -c \
        "hostname $node && mount --bind '$dir/hosts' /etc/hosts && exec slurmd -N $node"
done
for ((t = 0; t < 100; t++)); do # a real step on every node
    if timeout 20 srun --quiet --nodes=2 --ntasks=2 --partition=high --immediate=10 true 2>/dev/null; then exit 0; fi
    sleep 0.2
done
tail -n 5 "$dir"/log/* >&2
exit 1
