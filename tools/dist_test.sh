#!/usr/bin/env bash
# tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]; NNODES, NODE_RANK, MASTER_ADDR and PORT from the environment
set -euo pipefail
usage="usage: $0 CONFIG CHECKPOINT GPUS [options of test.py]"
config=${1:?$usage} checkpoint=${2:?$usage} gpus=${3:?$usage}
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
