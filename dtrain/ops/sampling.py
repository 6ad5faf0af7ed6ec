"""Losses over a sample of the classes, and what draws it: for models of very many classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import float32, int32, int64
from dtrain.graph.graph import Spec, Tensor
from dtrain.ops.array import expand_dims, ones_like, reshape, stop_gradient, zeros_like
from dtrain.ops.base import Array, Env, Kernel, Op, apply, convert_to_tensor, register
from dtrain.ops.functions import expm1, log1p
from dtrain.ops.index import gather
from dtrain.ops.join import concat
from dtrain.ops.late import shape as sizes_of
from dtrain.ops.linalg import matmul
from dtrain.ops.logic import where
from dtrain.ops.loss import sigmoid_cross_entropy_with_logits, softmax_cross_entropy_with_logits
from dtrain.ops.math import cast, equal, log
from dtrain.ops.nn import embedding_lookup
from dtrain.ops.random import _seed, random_uniform
from dtrain.ops.reduce import argmax, reduce_any, reduce_sum


@register
class SampleClasses(Op):
    """`count` classes below `classes`, and how many draws they took: the first results of each, if unique.

    law: uniform, or log_uniform, where class c has the probability log((c + 2) / (c + 1)) / log(classes + 1).
    """

    count: int
    classes: int
    law: str
    unique: bool
    seed: int
    stateful = True
    draws = True
    no_gradient = "it has no inputs"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((self.count,), int64), Spec((), int32)]

    def draw(self, generator: np.random.Generator, n: int) -> np.ndarray:
        if self.law == "uniform":
            return generator.integers(0, self.classes, n)
        drawn = np.exp(generator.random(n) * math.log(self.classes + 1)).astype(np.int64) - 1
        return np.clip(drawn, 0, self.classes - 1)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp = env.random_stream(self.seed), env.xp

        def kernel() -> None:
            generator, tries = stream(), self.count
            drawn = self.draw(generator, self.count)
            if self.unique:
                while len(first := np.unique(drawn, return_index=True)[1]) < self.count:
                    drawn = np.concatenate([drawn, self.draw(generator, self.count)])
                order = np.sort(first)[: self.count]
                drawn, tries = drawn[order], int(order[-1]) + 1 if self.count else 0
            xp.copyto(outs[0], xp.asarray(drawn))
            outs[1].fill(tries)

        return kernel


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def log_uniform_candidate_sampler(
    true_classes: Any,
    num_true: int,
    num_sampled: int,
    unique: bool,
    range_max: int,
    seed: int | None = None,
    name: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(classes [num_sampled], how often the true classes and these are expected), small ones more often."""
    return _sampler("log_uniform", true_classes, num_sampled, unique, range_max, seed, name)


def uniform_candidate_sampler(
    true_classes: Any,
    num_true: int,
    num_sampled: int,
    unique: bool,
    range_max: int,
    seed: int | None = None,
    name: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As log_uniform_candidate_sampler, all classes equally likely."""
    return _sampler("uniform", true_classes, num_sampled, unique, range_max, seed, name)


def _sampler(
    law: str, true: Any, count: int, unique: bool, classes: int, seed: int | None, name: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    if unique and count > classes:
        raise GraphError(f"{count} different classes of {classes} cannot be sampled.")
    drawn = apply(SampleClasses(int(count), int(classes), law, bool(unique), _seed(seed)), name=name)
    sampled, tries = drawn.op.outputs
    tries = cast(tries, float32)

    def expected(ids: Tensor) -> Tensor:
        if law == "uniform":
            p = ones_like(cast(ids, float32)) / float(classes)
        else:
            p = log1p(1.0 / (cast(ids, float32) + 1.0)) / math.log(classes + 1)
        return -expm1(tries * log1p(-p)) if unique else p * tries

    return sampled, expected(cast(true, int64)), expected(sampled)


def nce_loss(
    weights: Any,
    biases: Any,
    labels: Any,
    inputs: Any,
    num_sampled: int,
    num_classes: int,
    num_true: int = 1,
    sampled_values: Sequence[Any] | None = None,
    remove_accidental_hits: bool = False,
    partition_strategy: str = "mod",
    name: str = "nce_loss",
) -> Tensor:
    """Noise-contrastive estimation (Gutmann & Hyvärinen 2010): a loss for each of the inputs [n, size].

    Args:
        weights, biases: [num_classes, size] and [num_classes]. labels: [n, num_true].
        sampled_values: what a candidate sampler gave, by default log_uniform_candidate_sampler.
        remove_accidental_hits: leave out sampled classes that are a label of the example.
    """
    logits, targets = _sampled_logits(
        weights,
        biases,
        labels,
        inputs,
        num_sampled,
        num_classes,
        num_true,
        sampled_values,
        remove_accidental_hits,
    )
    losses = sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    return reduce_sum(losses, 1, name=name)


def sampled_softmax_loss(
    weights: Any,
    biases: Any,
    labels: Any,
    inputs: Any,
    num_sampled: int,
    num_classes: int,
    num_true: int = 1,
    sampled_values: Sequence[Any] | None = None,
    remove_accidental_hits: bool = True,
    partition_strategy: str = "mod",
    name: str = "sampled_softmax_loss",
    seed: int | None = None,
) -> Tensor:
    """Softmax cross entropy over labels and a sample of other classes (Jean et al. 2014), as nce_loss."""
    logits, targets = _sampled_logits(
        weights,
        biases,
        labels,
        inputs,
        num_sampled,
        num_classes,
        num_true,
        sampled_values,
        remove_accidental_hits,
        seed,
    )
    return softmax_cross_entropy_with_logits(labels=stop_gradient(targets), logits=logits, name=name)


def _sampled_logits(
    weights: Any,
    biases: Any,
    labels: Any,
    inputs: Any,
    count: int,
    classes: int,
    true: int,
    sampled: Sequence[Any] | None,
    remove: bool,
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [n, true + count] of the labels and of a sample, less the logarithms of their odds; targets."""
    x, labels = convert_to_tensor(inputs), reshape(cast(labels, int64), [-1, true])
    if sampled is None:
        sampled = log_uniform_candidate_sampler(labels, true, count, True, classes, seed)
    ids, of_true, of_sampled = (stop_gradient(convert_to_tensor(s)) for s in sampled)
    of_labels = embedding_lookup(weights, labels)  # [n, true, size]
    logits_true = reduce_sum(expand_dims(x, 1) * of_labels, 2) + gather(biases, labels)
    logits_sampled = matmul(x, embedding_lookup(weights, ids), transpose_b=True) + gather(biases, ids)
    if remove:
        hits = reduce_any(equal(expand_dims(labels, 2), reshape(ids, [1, 1, -1])), 1)
        logits_sampled = where(
            hits, zeros_like(logits_sampled) - float(np.finfo("float32").max), logits_sampled
        )
    logits = concat([logits_true - log(of_true), logits_sampled - log(of_sampled)], 1)
    targets = concat([ones_like(logits_true) / float(true), zeros_like(logits_sampled)], 1)
    return logits, targets


def multinomial(
    logits: Any, num_samples: int, seed: int | None = None, name: str | None = None, output_dtype: Any = None
) -> Tensor:
    """Classes [n, num_samples] drawn by the probabilities softmax(logits), logits being [n, classes]."""
    x = convert_to_tensor(logits)
    n, classes = ((sizes_of(x)[i] if d is None else d) for i, d in enumerate(x.spec.shape or (None, None)))
    unit = random_uniform([n, num_samples, classes], np.finfo("float32").tiny, 1.0, seed=seed)
    # the largest of logits with Gumbel noise is distributed so
    noisy = expand_dims(cast(x, float32), 1) - log(-log(unit))
    return cast(argmax(noisy, 2), output_dtype or int64, name=name or "multinomial")


def random_crop(value: Any, size: Any, seed: int | None = None, name: str | None = None) -> Tensor:
    """A part of these sizes, of a tensor with known shape, at a place that each run draws anew."""
    x = convert_to_tensor(value)
    shape, sizes = x.spec.shape, [int(s) for s in size]
    if shape is None or None in shape or len(shape) != len(sizes):
        raise GraphError(f"random_crop: the shape of {x!r} has to be known, and size {sizes} to fit it.")
    for axis, (n, kept) in enumerate(zip(shape, sizes, strict=True)):
        if kept > n:  # type: ignore[operator]  # known, see above
            raise GraphError(f"random_crop: size {sizes} is more than the shape {list(shape)}.")
        if kept < n:  # type: ignore[operator]  # known, see above
            start = random_uniform([], 0, n - kept + 1, int32, seed)  # type: ignore[operator]  # known, see above
            x = gather(x, start + np.arange(kept, dtype=np.int32), axis=axis)
    return reshape(x, sizes, name=name or "random_crop")
