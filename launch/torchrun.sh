#!/usr/bin/env bash
# A run of either stage under torchrun, on one machine of eight GPUs unless NODES and GPUS say otherwise:
#   launch/torchrun.sh configs/prune/llama2-7b_to_1.3b.yaml [--key=value ...]
# On several machines, the same command on each of them:
#   NODES=2 MASTER_ADDR=the-first-of-them launch/torchrun.sh configs/pretrain/sheared-llama-1.3b.yaml
# The same command begins the run and goes on with it. What each ending means is in launch/README.md.
set -euo pipefail
config=${1:?a config is missing: launch/torchrun.sh configs/STAGE/NAME.yaml [--key=value ...]}
shift
nodes=${NODES:-1}
gpus=${GPUS:-8}

# The signals that torchrun hands on to its processes. USR1 is not among them by default: it would die of it, and leave
# the processes running. (This is its option --signals-to-handle, which came with torch 2.10 and from which it sets
# TORCHELASTIC_SIGNALS_TO_HANDLE, whatever you set that to. With torch 2.9, do not send USR1.)
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT
# How long it waits, once it has handed a signal on, before it kills: a step, a validation and a checkpoint must fit.
# Its default is 30 s. (This is its option --shutdown-timeout, which came with torch 2.12; before, it is always 30 s.)
export PET_SHUTDOWN_TIMEOUT=${SHUTDOWN_SECONDS:-600}
# Threads of each process, which torchrun would set to 1 as well, but with a warning.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# No restarts by torchrun: a run that failed by a mistake would fail again. Call this script again instead.
exec torchrun \
    --nnodes="$nodes" \
    --nproc-per-node="$gpus" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="${MASTER_ADDR:-localhost}:${MASTER_PORT:-29500}" \
    --rdzv-id="$config" \
    --max-restarts=0 \
    -m shear_lit fit \
    --config="$config" \
    --trainer.num_nodes="$nodes" \
    --trainer.devices="$gpus" \
    --trainer.strategy=fsdp2 \
    --ckpt_path=auto \
    "$@"
