"""Two optimizers, each with its own variables and loss."""

import numpy as np

import dtrain as dt

NOISE = 4


def generator(noise):
    with dt.variable_scope("generator", reuse=dt.AUTO_REUSE):
        hidden = dt.nn.relu(dt.matmul(noise, dt.get_variable("a", [NOISE, 32])) + dt.get_variable("b", [32]))
        return dt.matmul(hidden, dt.get_variable("c", [32, 2])) + dt.get_variable("d", [2])


def critic(points):
    with dt.variable_scope("critic", reuse=dt.AUTO_REUSE):
        hidden = dt.nn.relu(dt.matmul(points, dt.get_variable("a", [2, 32])) + dt.get_variable("b", [32]))
        return dt.matmul(hidden, dt.get_variable("c", [32, 1]))[:, 0]


def network(x, training):
    made = critic(generator(x["noise"]))
    real = critic(x["points"])
    cross = dt.nn.sigmoid_cross_entropy_with_logits
    ones, zeros = dt.ones_like(real), dt.zeros_like(real)
    return {
        "critic": cross(labels=ones, logits=real) + cross(labels=zeros, logits=made),
        "generator": cross(labels=ones, logits=made),
    }


def both(loss):
    """A step of each; the generator's sees the critic as it was before."""
    of = lambda name: dt.train.AdamOptimizer(1e-3).minimize(loss[name], var_list=dt.trainable_variables(name))
    return dt.group(of("critic"), of("generator"))


def task():
    rng = np.random.default_rng(6)
    angle = rng.uniform(0, 2 * np.pi, 1000)
    points = np.stack([np.cos(angle), np.sin(angle)], 1)
    x = {"points": points, "noise": rng.normal(size=(1000, NOISE))}
    itself = lambda y_true, y_pred: y_pred
    return dt.Task(
        data=(x, np.zeros(1000)),
        model=network,
        loss={"critic": itself, "generator": itself},
        optimizer=both,
    )
