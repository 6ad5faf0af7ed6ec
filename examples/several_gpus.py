"""A program for several GPUs: under `mpirun -n N` each rank takes a GPU of its node; without GPUs, its cores.

DTRAIN_DEVICE=gpu makes a missing GPU an error, DTRAIN_DEVICE=cpu takes none.
"""

import numpy as np

import dtrain as dt

dt.set_random_seed(0)
rng = np.random.default_rng(0)
inputs = rng.normal(size=(256, 64)).astype("float32")
goals = np.tanh(inputs @ rng.normal(size=(64, 8)).astype("float32") / 8)

x = dt.placeholder("float32", [None, 64], name="x")
y = dt.placeholder("float32", [None, 8], name="y")
hidden = dt.nn.relu(dt.matmul(x, dt.get_variable("w1", [64, 128])))
loss = dt.reduce_mean(dt.square(dt.matmul(hidden, dt.get_variable("w2", [128, 8])) - y))
step = dt.train.AdamOptimizer(0.01).minimize(loss)

world = dt.comm.world()
with dt.Session() as session:
    session.run(dt.global_variables_initializer())
    first = session.run(loss, {x: inputs, y: goals})
    rows = slice(256 * world.rank // world.size, 256 * (world.rank + 1) // world.size)
    for _ in range(20):
        session.run(step, {x: dt.Shard(inputs[rows], 256), y: dt.Shard(goals[rows], 256)})
    last = session.run(loss, {x: inputs, y: goals})
if world.rank == 0:
    print(f"loss {first:.3f}, after 20 steps {last:.3f}")
