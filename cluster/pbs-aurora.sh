#!/bin/bash
#PBS -N dtrain
#PBS -l select=2
#PBS -l place=scatter
#PBS -l walltime=00:30:00
#PBS -l filesystems=home:flare
#PBS -q debug
##PBS -A PROJECT
#PBS -r y
#PBS -j oe
#PBS -k doe

# dtrain under PBS Pro and PALS, on nodes like Aurora's: 2 sockets of 52 cores, of which each leaves its first to the
# system. dtrain computes on the processors there: it knows no Intel GPUs.
# Edit the lines above (##PBS is off) and the settings below; then: qsub pbs-aurora.sh
# Everything has to lie on a file system that all nodes see.

cd "$PBS_O_WORKDIR" || exit 3
#module load MODULE                  # what the site's Python and MPI need
export PATH="$PWD/.venv/bin:$PATH"   # where dtrain is installed
launch=$PWD/launch                   # of the project
#export DTRAIN_DATA=/path/to/mnist
program=(dtrain train --run-dir runs/mlp --resume auto)
ranks_per_node=12
cores=1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100   # of local rank 0, 1, ...
walltime=1800                        # seconds, as above: PBS gives no warning before it
warning=120                          # seconds before it at which the run saves and stops
this=$PBS_O_WORKDIR/pbs-aurora.sh    # this file, which is submitted again
restarts=3                           # starts after a failure; those after a warning are not limited
attempt=${attempt:-0}

nodes=$(sort -u "$PBS_NODEFILE" | wc -l)
command=(mpiexec -n "$((nodes * ranks_per_node))" --ppn "$ranks_per_node" --cpu-bind "list:$cores")

# shellcheck source=launch/job
. "$launch/job"
# shellcheck disable=SC2034  # launch/job reads it
warn_after=$((walltime - warning))
run "${command[@]}" "$launch/bind" "${program[@]}"
# a job that PBS preempts it queues again itself; no user may queue a running one again (qrerun)
if [ "$next" = again ]; then
    [ "$rc" = 75 ] || attempt=$((attempt + 1))
    qsub -v attempt="$attempt" "$this" || echo "queue it again from a login node: qsub $this" >&2
fi
exit "$rc"
