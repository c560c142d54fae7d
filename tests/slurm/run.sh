#!/usr/bin/env bash
# A small Slurm of its own on this machine, and a list of runs through it: see README.md beside this file.
set -euo pipefail
cd "$(dirname "$0")/../.."
PY=${PY:-.venv/bin/python}
NICE=${NICE:-0}
renice -n "$NICE" -p $$ >/dev/null
for program in munged slurmctld slurmd srun sbatch; do
    type -P "$program" >/dev/null || { echo "error: $program is missing: apt-get install slurm-wlm munge"; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: the daemons need root"; exit 2; }

DIR=$(mktemp -d /tmp/samatch-slurm.XXXXXX)
chmod 755 "$DIR"
export SLURM_CONF=$DIR/slurm.conf SAMATCH_RUNS=$DIR/runs OMP_NUM_THREADS=1
SERIAL=$DIR/serial
START=$SECONDS
say() { printf '%4d s  %s\n' $((SECONDS - START)) "$*"; }

# What runs on a node: processes with the environment that Slurm gives its jobs, and their slurmstepds.
tasks_of() {
    { grep -lzx "SLURMD_NODENAME=$1" /proc/[0-9]*/environ || true; } 2>/dev/null |
        { xargs -r grep -lzxF "SAMATCH_RUNS=$DIR/runs" || true; } 2>/dev/null | cut -d/ -f3
}
stepds_of() {
    local pid
    for pid in $(tasks_of "$1"); do
        awk '{print $4}' "/proc/$pid/stat" 2>/dev/null || true
    done | sort -un | while read -r pid; do
        ! grep -qsa '^slurmstepd' "/proc/$pid/cmdline" || echo "$pid"
    done
}
# Of the training of a run: its Slurm job, or the node that it is on.
variable_of() {
    local pid
    for pid in $(tasks_of n1) $(tasks_of n2); do
        if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- "-m samatch train.*$1"; then
            tr '\0' '\n' <"/proc/$pid/environ" | sed -n "s/^$2=//p"
            return
        fi
    done
}
kill_all_of() { { stepds_of "$1"; tasks_of "$1"; } | xargs -r kill -9 2>/dev/null || true; }
wait_for() {  # a state of run $1 that its training can go on from
    until [ -e "$SAMATCH_RUNS/demo/.$1.partial/state.pt" ]; do
        [ ! -e "$SAMATCH_RUNS/demo/$1" ] || { echo "error: $1 ended too soon to be interrupted"; exit 1; }
        sleep 0.2
    done
}
kill_pid_file() { [ ! -s "$1" ] || kill "${2:--TERM}" "$(cat "$1")" 2>/dev/null || true; }
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    # The launching program first, so that it starts nothing anew.
    [ -z "${MAKE_PID:-}" ] || { pkill -P "$MAKE_PID"; kill "$MAKE_PID"; } 2>/dev/null || true
    timeout 10 scancel --full --user=root 2>/dev/null || true
    sleep 1
    for node in n1 n2; do
        kill_pid_file "$DIR/slurmd.$node.pid"
        kill_all_of $node
    done
    for name in slurmctld munged; do kill_pid_file "$DIR/$name.pid"; done
    [ -z "${SERIAL_PID:-}" ] || kill "$SERIAL_PID" 2>/dev/null || true
    sleep 1
    if [ -n "${KEEP:-}" ]; then echo "kept: $DIR"; else rm -rf "$DIR"; fi
    exit $status
}
trap clean_up EXIT INT TERM

start_slurm() {
    local host
    host=$(hostname -s)
    mkdir -p "$DIR"/{state,spool,runs}
    (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge.key")
    munged --force --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" --seed-file="$DIR/munge.seed" \
        --pid-file="$DIR/munged.pid" --log-file="$DIR/munged.log"
    cat >"$SLURM_CONF" <<CONF
ClusterName=samatch
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.socket,cred_expire=10
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.%n.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
SlurmdTimeout=15
KillWait=2
ReturnToService=2
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 Gres=gpu:1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
    echo "NodeName=n[1-2] Name=gpu File=/dev/null" >"$DIR/gres.conf"
    slurmctld -f "$SLURM_CONF"
    start_node n1
    start_node n2
    for _ in $(seq 120); do
        [ "$(sinfo -h -o '%t %D')" != "idle 2" ] || return 0
        sleep 0.5
    done
    echo "error: the nodes are not up"
    tail -n 5 "$DIR/slurmctld.log"
    exit 1
}
start_node() { slurmd -N "$1" -f "$SLURM_CONF" -n "$NICE"; }
stop_node() {  # as a power cut does: the daemon and everything on the node at once
    kill_pid_file "$DIR/slurmd.$1.pid" -9
    kill_all_of "$1"
}

SMALL="--set train.iterations=200 --set train.checkpoint_every=10 --set train.val_every=200 --set train.image_size=32"
make_list() {
    for seed in 1 2 3 4 5; do
        echo "--profile demo --dataset phantom --method supervised --seed $seed --variant tiny $SMALL"
    done
    # Three children of one parent, which no line names.
    for method in fixmatch mean_teacher entropy_minimization; do
        echo "--profile demo --dataset phantom --method $method --seed 0 --variant tiny $SMALL"
    done
}
runs() {
    # -o: the interpreter is the one that PY names, nothing is installed
    exec make --no-print-directory -o .venv/.installed PY="$PY" runs LIST="$DIR/list" LAUNCH="$1"
}
shown() { sed -e "s#$DIR/##g" -e "s#$(hostname -s)#HOST#g"; }

start_slurm
make_list >"$DIR/list"
say "slurmctld and two slurmd are up: $(sinfo -h -o '%D nodes %t, %G each')"
# The same list one after the other in one process, at the side: what the results must equal.
SAMATCH_RUNS=$SERIAL "$PY" -W ignore tests/slurm/serial.py "$DIR/list" >"$DIR/serial.log" 2>&1 &
SERIAL_PID=$!

A=phantom-n3-supervised-s1-tiny
B=phantom-n3-supervised-s3-tiny
say 'make runs LIST=list LAUNCH="srun --gres=gpu:1 --quiet"'
runs "srun --gres=gpu:1 --quiet" >"$DIR/first.log" 2>&1 &
MAKE_PID=$!
wait_for $A
job=$(variable_of "--seed 1 " SLURM_JOB_ID)
scancel "$job"
say "scancel of the job that trains $A"
wait_for $B
node=$(variable_of "--seed 3 " SLURMD_NODENAME)
stop_node "$node"
say "a node is stopped while it trains $B"
# The controller misses it by itself after SlurmdTimeout; it need not be waited for.
scontrol update nodename="$node" state=down reason=stopped
say "sinfo: $(sinfo -h -o '%D %t' | paste -sd,)"
sleep 2
start_node "$node"
if wait $MAKE_PID; then echo "error: exit status 0 in spite of two failures"; exit 1; fi
say "exit status not 0:"
shown <"$DIR/first.log"
grep -q "^failed.*$A" "$DIR/first.log" && grep -q "^failed.*$B" "$DIR/first.log"

say 'make runs LIST=list LAUNCH="sbatch --wait --requeue --gres=gpu:1 tools/job.sh"'
runs "sbatch --wait --requeue --gres=gpu:1 tools/job.sh" >"$DIR/second.log" 2>&1 &
MAKE_PID=$!
until job=$(variable_of "--seed 1 " SLURM_JOB_ID) && [ -n "$job" ]; do sleep 0.2; done
scontrol requeue "$job"
say "scontrol requeue of the job that goes on with $A"
wait $MAKE_PID
MAKE_PID=
say "exit status 0:"
shown <"$DIR/second.log"

say "the same command again:"
runs "srun --gres=gpu:1" 2>&1 | shown | sed -n '1p;$p'
wait $SERIAL_PID
SERIAL_PID=
"$PY" tests/slurm/compare.py "$SAMATCH_RUNS/demo" "$SERIAL/demo"
say "done"
