#!/bin/bash
#BSUB -J dtrain
#BSUB -nnodes 2
#BSUB -W 30
##BSUB -P PROJECT
##BSUB -q QUEUE
#BSUB -o dtrain-%J.out
#BSUB -r
#BSUB -Q "75"
#BSUB -wa USR1
#BSUB -wt 2

# dtrain under LSF with jsrun, a resource set for each rank. Edit the lines above (##BSUB is off) and the settings
# below; then: bsub lsf.sh
# Everything has to lie on a file system that all nodes see.

#module load MODULE                  # what the site's Python and MPI need
export PATH="$PWD/.venv/bin:$PATH"   # where dtrain is installed
launch=$PWD/launch                   # of the project
#export DTRAIN_DATA=/path/to/mnist
program=(dtrain train --run-dir runs/mlp --resume auto)
nodes=2                              # as above
ranks_per_node=4
cores=10                             # of a rank
gpus=0                               # of a rank

command=(jsrun -n "$((nodes * ranks_per_node))" -r "$ranks_per_node" -a 1 -c "$cores" -g "$gpus" -b "packed:$cores" -d packed)
bind=("$launch/bind")
[ "$gpus" = 0 ] || bind+=(--gpus bound)   # jsrun shows each rank the GPU of its resource set
# jsrun passes no signal on
# shellcheck disable=SC2034  # launch/job reads it
tell='jskill -s USR1 all'

# shellcheck source=launch/job
. "$launch/job"
run "${command[@]}" "${bind[@]}" "${program[@]}"
# LSF queues the job again by exit code 75 (-Q), and one whose node failed (-r), but not one that bkill ended
[ "$next" = again ] || [ "$rc" != 75 ] || rc=143
exit "$rc"
