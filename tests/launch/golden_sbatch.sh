#!/bin/bash

# Parameters
#SBATCH --account=physics
#SBATCH --array=0-2%2
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=8
#SBATCH --error=SWEEP/submitit/%A_%a_0_log.err
#SBATCH --exclude=node7
#SBATCH --gpus-per-node=4
#SBATCH --job-name=six
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=END
#SBATCH --mem=64GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=SWEEP/submitit/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=1440
#SBATCH --wckey=submitit

# setup
export GREETING='a b'
export NCCL_DEBUG=WARN
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output SWEEP/submitit/%A_%a_%t_log.out --error SWEEP/submitit/%A_%a_%t_log.err --kill-on-bad-exit=1 --container-image=pytorch.sqsh PYTHON -u -m submitit.core._submit SWEEP/submitit
