#!/bin/bash
# All GPU figures of this repository in one command of at most ten minutes; docs/results/gpu.md
# says what to carry. Results go to $OUT (or the folder given). CELLS=FILE goes on from an earlier call.
set -u
out=${OUT:-${1:-gpu_out}}
mkdir -p "$out"
cd "$(dirname "$0")/../.." || exit
if compgen -G '.whl/*.whl' >/dev/null; then # what the machine lacks, carried as wheels
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target /tmp/site .whl/*.whl || exit
    export PYTHONPATH=/tmp/site
fi
export PYTHONPATH=$PWD:${PYTHONPATH:-} PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv | tee "$out/gpu.csv"
if [ -f "${CELLS:-}" ]; then
    cp "$CELLS" "$out/cells.json"
fi
python3 tests/bench/bench_gpu.py --cells "$out/cells.json" --seconds "${SECONDS_LEFT:-500}" \
    --json "$out/rows.json"
