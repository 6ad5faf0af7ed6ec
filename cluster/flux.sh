#!/bin/bash
#flux: --job-name=dtrain
#flux: --nodes=2
#flux: --exclusive
#flux: --time-limit=1800s
#flux: --output=dtrain-{{id}}.out
#flux: # --setattr=bank=PROJECT
#flux: # --queue=QUEUE

# dtrain under Flux. Edit the lines above (what stands behind a second # is off) and the settings below; then:
# flux batch flux.sh
# Everything has to lie on a file system that all nodes see.

export PATH="$PWD/.venv/bin:$PATH"   # where dtrain is installed
launch=$PWD/launch                   # of the project
#export DTRAIN_DATA=/path/to/mnist
program=(dtrain train --run-dir runs/mlp --resume auto)
nodes=2                              # as above
ranks_per_node=4
gpus=0                               # of a rank
pmi=simple                           # how Flux speaks to the MPI: simple for MPICH, pmix for Open MPI (flux-pmix)
warning=120                          # seconds before the time limit at which the run saves and stops
this=$PWD/flux.sh                    # this file, which is submitted again
restarts=3                           # starts after a failure; those after a warning are not limited
attempt=${attempt:-0}

command=(flux run -N "$nodes" -n "$((nodes * ranks_per_node))" --exclusive -o cpu-affinity=per-task -o pmi="$pmi")
command+=(--signal="USR1@${warning}s")
bind=("$launch/bind")
if [ "$gpus" != 0 ]; then
    command+=(-g "$gpus" -o gpu-affinity=per-task)
    bind+=(--gpus bound)
fi
# flux run passes no SIGUSR1 on
# shellcheck disable=SC2034  # launch/job reads it
tell='flux job killall --force --signal=USR1'

# shellcheck source=launch/job
. "$launch/job"
run "${command[@]}" "${bind[@]}" "${program[@]}"
if [ "$next" = again ]; then
    [ "$rc" = 75 ] || attempt=$((attempt + 1))
    flux --parent batch --env=attempt="$attempt" "$this" || echo "queue it again: flux batch $this" >&2
fi
exit "$rc"
