#!/bin/bash
#SBATCH --job-name=dtrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
##SBATCH --gpus-per-node=4
#SBATCH --exclusive
##SBATCH --cpus-per-task=8
#SBATCH --time=00:30:00
##SBATCH --account=PROJECT
##SBATCH --partition=PARTITION
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# dtrain under Slurm. Edit the lines above (##SBATCH is off) and the settings below; then: sbatch slurm.sh
# Everything has to lie on a file system that all nodes see.

export PATH="$PWD/.venv/bin:$PATH"   # where dtrain is installed
launch=$PWD/launch                   # of the project
#export DTRAIN_DATA=/path/to/mnist
program=(dtrain train --run-dir runs/mlp --resume auto)
launcher=srun                        # or mpirun
mpi=pmix                             # how srun speaks to the MPI: pmix for Open MPI, pmi2 for MPICH; srun --mpi=list
restarts=3                           # starts after a failure; those after a warning or preemption are not limited
attempt=${SLURM_RESTART_COUNT:-0}

if [ "$launcher" = srun ]; then
    # the ranks end one another, each with its exit code; --wait is for those that cannot
    command=(srun --mpi="$mpi" --kill-on-bad-exit=0 --wait=30)
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
        command+=(--cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=cores)
    else
        command+=(--cpu-bind=none)   # launch/bind shares the node's cores among its ranks
    fi
    # NCCL joins no ranks that are kept from one another's GPUs; launch/bind gives each its own
    [ -z "${SLURM_GPUS_ON_NODE:-}" ] || command+=(--gpu-bind=none)
else
    export PRTE_MCA_hwloc_default_binding_policy="${PRTE_MCA_hwloc_default_binding_policy:-none}"
    command=(mpirun -n "$((SLURM_JOB_NUM_NODES * SLURM_NTASKS_PER_NODE))")
fi

# shellcheck source=launch/job
. "$launch/job"
run "${command[@]}" "$launch/bind" "${program[@]}"
[ "$next" != again ] || scontrol requeue "$SLURM_JOB_ID"
exit "$rc"
