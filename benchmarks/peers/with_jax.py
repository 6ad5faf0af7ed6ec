"""W, or a network of convolutions, in JAX: steps compiled and called from Python, or an epoch as one scan."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from contest import LEARNING_RATE, SEED, Contest


def logits(weights: Any, x: Any, key: Any = None) -> Any:
    """key: of the random numbers of dropout; None while testing."""
    left = list(weights)
    for kind, *how in contest.layers:
        if kind == "pool":
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        elif kind == "dropout":
            rate = how[0]
            if key is not None:
                x = jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)
        else:
            kernel, bias = left.pop(0)
            if kind == "conv":
                layout = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(x, kernel, (1, 1), how[2].upper(), dimension_numbers=layout)
            else:
                x = x.reshape(len(x), -1) @ kernel
            x = jax.nn.relu(x + bias) if left else x + bias
    return x


def mean_loss(weights: Any, x: Any, y: Any, key: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits(weights, x, key)), y[:, None], 1).mean()


def one_step(state: Any, chosen: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """Adam written out, so that nothing but JAX is needed."""
    weights, m, v, t = state
    t = t + 1
    key = jax.random.fold_in(jax.random.key(SEED), t.astype("int32"))
    loss, slopes = jax.value_and_grad(mean_loss)(weights, images[chosen], labels[chosen], key)
    rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    tree = jax.tree.map
    m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, slopes)
    v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, slopes)
    weights = tree(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), weights, m, v)
    return (weights, m, v, t), loss


@partial(jax.jit, donate_argnums=0)
def step(state: Any, chosen: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    return one_step(state, chosen, images, labels)


@partial(jax.jit, donate_argnums=0)
def scan(state: Any, orders: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    return jax.lax.scan(lambda s, chosen: one_step(s, chosen, images, labels), state, orders)


contest = Contest("jit", "scan")
images, labels = jnp.asarray(contest.images), jnp.asarray(contest.labels)
weights = jax.tree.map(jnp.asarray, contest.weights())
state = (
    weights,
    jax.tree.map(jnp.zeros_like, weights),
    jax.tree.map(jnp.zeros_like, weights),
    jnp.float32(0),
)
last = jnp.zeros(())

if contest.variant == "jit":

    def train_step(chosen: Any) -> None:
        global state, last
        state, last = step(state, chosen, images, labels)

    contest.train(train_step, lambda: float(last))
else:
    for epoch in range(contest.epochs):
        order = contest.shuffled()
        whole = len(order) // contest.batch * contest.batch
        begun = time.perf_counter()
        state, losses = scan(state, order[:whole].reshape(-1, contest.batch), images, labels)
        last = losses[-1]
        if whole < len(order):
            state, last = step(state, order[whole:], images, labels)
        loss = float(jax.block_until_ready((last, state))[0])
        seconds = time.perf_counter() - begun
        if epoch == 0:
            contest.first_step()  # a scan shows nothing before all of it is done
        contest.epoch(loss, seconds)
contest.test(lambda x: logits(state[0], x))
