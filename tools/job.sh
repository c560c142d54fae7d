#!/bin/sh
# What sbatch runs: the words that follow it. LAUNCH="sbatch --wait --requeue tools/job.sh"
exec "$@"
