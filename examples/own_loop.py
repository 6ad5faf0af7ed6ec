"""A training loop of your own: a graph, a session, and on each rank only its rows of the batch."""

import numpy as np

import dtrain as dt

dt.set_random_seed(0)
rank, ranks = dt.comm.world().rank, dt.comm.world().size
rng = np.random.default_rng(0)
examples = rng.normal(size=(1000, 20)).astype("float32")
targets = (examples[:, :10].sum(1) > examples[:, 10:].sum(1)).astype("float32")

x = dt.placeholder("float32", [None, 20], name="x")
y = dt.placeholder("float32", [None], name="y")
hidden = dt.nn.relu(dt.matmul(x, dt.get_variable("w1", [20, 32])) + dt.get_variable("b1", [32]))
score = dt.matmul(hidden, dt.get_variable("w2", [32, 1]))[:, 0]
loss = dt.reduce_mean(dt.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=score))
right = dt.reduce_mean(dt.cast(dt.equal(score > 0, y > 0.5), "float32"))
step = dt.train.AdamOptimizer(0.01).minimize(loss)

BATCH = 100
with dt.Session() as session:
    session.run(dt.global_variables_initializer())
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(1000)  # the same on every rank
        losses = []
        for k in range(0, 1000, BATCH):
            # This rank's rows of the batch; the loss and the gradients are those of all rows.
            rows = order[k + BATCH * rank // ranks : k + BATCH * (rank + 1) // ranks]
            feeds = {x: dt.Shard(examples[rows], BATCH), y: dt.Shard(targets[rows], BATCH)}
            value, _ = session.run([loss, step], feeds)
            losses.append(value)
        accuracy = session.run(right, {x: examples, y: targets})
        if rank == 0:
            print(f"epoch {epoch + 1}  loss {np.mean(losses):.4f}  accuracy {accuracy:.3f}")
