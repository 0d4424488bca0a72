#!/bin/bash
# A run with workers on Slurm: sbatch slurm.sh. It begins anew where a node is lost, and when its time is over.
#SBATCH --job-name=reviews
#SBATCH --ntasks=17
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=1G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
. venv/bin/activate
# OPENAI_API_KEY=… and FLOWLLM_DATABASE_URL=postgresql://…, in a file that only its owner can read
set -a
. ./keys.env
set +a

TAG="reviews-$SLURM_JOB_ID" # a requeued job keeps its number
run=$(flowllm runs --tag "$TAG" --json | python -c 'import json, sys; print(*[run["run_id"] for run in json.load(sys.stdin)][:1])')
if [ -n "$run" ]; then
  flowllm resume "$run" --workers 0 &
else
  flowllm run reviews.yaml --over reviews.jsonl --output replies.jsonl --workers 0 --tag "$TAG" &
fi
coordinator=$!
srun --ntasks=$((SLURM_NTASKS - 1)) --kill-on-bad-exit=0 flowllm work --exit-when-idle 30m &
workers=$!

stopped=
trap 'stopped=yes; kill -TERM $coordinator' TERM INT
code=0
wait $coordinator || code=$?
if [ -n "$stopped" ]; then
  code=0
  wait $coordinator || code=$? # the first wait was cut short by the signal
fi
kill -TERM $workers || true # srun hands it on, and workers give back what they have
wait $workers || true
if [ -n "$stopped" ] && [ "$code" = 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
