"""Cases as programs of TensorFlow 1: a graph, a Session, minimize, and feeds of all kinds."""

from __future__ import annotations

from draw import REGULARIZERS, Draw, Random, Shape, input_shape, labels, stack

ACTIVATIONS = (
    "dt.tanh({})", "dt.nn.relu({})", "dt.sigmoid({})", "dt.nn.elu({})", "dt.nn.selu({})", "dt.nn.softplus({})",
    "dt.nn.softsign({})", "dt.nn.swish({})", "dt.nn.leaky_relu({}, 0.1)", "dt.nn.relu6({})", "dt.nn.softmax({})",
    "dt.nn.log_softmax({})", "{}",
)  # fmt: skip

#: Of rows [n, k], computed along the batch or among its rows: where ranks have to do more than their share.
ROWS = (
    "h = h - dt.reduce_mean(h, 0)",
    "h = h - dt.reduce_mean(h, 0, keepdims=True)",
    "h = h / (1 + dt.reduce_max(dt.abs(h), 0, keepdims=True))",
    "h = h + dt.reduce_sum(dt.tanh(h), 0) * 0.1",
    "h = h * dt.nn.softmax(h, 0)",
    "h = dt.nn.l2_normalize(h, 0)",
    "h = dt.nn.l2_normalize(h, 1)",
    "h = dt.nn.batch_normalization(h, *dt.nn.moments(h, [0]), None, None, 1e-2)",
    "h = dt.matmul(dt.tanh(dt.matmul(h, h, transpose_b=True)), h) * 0.1",
    "h = h + dt.matmul(h, dt.matmul(h, h, transpose_a=True)) * 0.01",
    "h = dt.reverse(h, [0]) + h",
    "h = dt.cumsum(h, 0) * 0.2",
    "h = h + h[:1]",
    "h = h * dt.sigmoid(h[-1:])",
    "h = h + 0.5 * h[0]",
    "h = dt.concat([h[1:], h[:1]], 0) - h",
    "h = dt.reduce_mean(dt.tanh(dt.expand_dims(h, 1) - dt.expand_dims(h, 0)), 1)",
    "h = dt.transpose(dt.tanh(dt.transpose(h)))",
    "h = dt.where(h > 0.1, h, 0.3 * h)",
    "h = dt.squeeze(dt.expand_dims(h, 0), [0]) * 1.5",
    "h = h + dt.reduce_logsumexp(h, 1, keepdims=True)",
    "h = h + dt.reduce_logsumexp(h, 0, keepdims=True)",
    "h = h + dt.reduce_mean(dt.gather(h, dt.argmax(h, 0)), 0)",
    "h = dt.stack([h, dt.tanh(h)], 0)[1] + h",
    "h = dt.add_n(dt.unstack(dt.stack([h, 2 * h, dt.sin(h)], 1), axis=1))",
    "h = h / dt.sqrt(1 + dt.reduce_sum(dt.square(h)))",
    "h = dt.nn.dropout(h, 0.7, seed=3)",
    "h = dt.clip_by_value(h, -1.3, 1.7)",
    "h = dt.minimum(dt.maximum(h, -1.1), dt.reduce_mean(h) + 2)",
    "h = dt.reshape(dt.reshape(h, [-1]), dt.shape(h))",
    "h = dt.split(dt.concat([h, dt.exp(-dt.square(h))], 1), 2, 1)[1] + h",
    "h = h - dt.stop_gradient(dt.reduce_mean(h))",
)

RATES = (
    "0.01",
    "dt.train.exponential_decay(0.02, count, 3, 0.7)",
    "dt.train.polynomial_decay(0.02, count, 5, 0.001)",
    "dt.train.piecewise_constant(count, [2, 4], [0.01, 0.005, 0.001])",
    "dt.train.cosine_decay(0.02, count, 8)",
)
OPTIMIZERS = (
    "GradientDescentOptimizer({})", "MomentumOptimizer({}, 0.9)", "MomentumOptimizer({}, 0.8, use_nesterov=True)",
    "AdagradOptimizer({})", "AdadeltaOptimizer({})", "RMSPropOptimizer({})",
    "RMSPropOptimizer({}, 0.8, momentum=0.5)", "RMSPropOptimizer({}, centered=True)", "AdamOptimizer({})",
    "NadamOptimizer({})", "AdaMaxOptimizer({})",
)  # fmt: skip
REDUCTIONS = ("SUM", "MEAN", "SUM_OVER_BATCH_SIZE", "SUM_BY_NONZERO_WEIGHTS")


def _layers(draw: Draw, s: Random, f: int) -> tuple[list[str], int]:
    """One or two lines that make rows h [n, f] into others."""
    if s.chance(0.45):
        return [s.one(ROWS)], f
    k = draw.width()
    act = s.one(ACTIVATIONS)
    if s.chance(0.5):
        regularizer = f", kernel_regularizer={s.one(REGULARIZERS)}" if s.chance(0.3) else ""
        return [f"h = {act.format(f'layers.Dense({k}{regularizer})(h)')}"], k
    weights = [f"w = dt.Variable(drawn(r, ({f}, {k}))" + (", constraint=unit)" if s.chance(0.15) else ")")]
    bias = f"dt.Variable(drawn(r, ({k},)))"
    product = s.one(("dt.matmul(h, w) + b", "dt.nn.bias_add(dt.matmul(h, w), b)", "dt.nn.xw_plus_b(h, w, b)"))
    if s.chance(0.2):
        return [*weights, f"h = {act.format('dt.matmul(h, w)')}"], k
    return [*weights, f"b = {bias}", f"h = {act.format(product)}"], k


def _loss(draw: Draw, s: Random, f: int) -> tuple[list[str], str, int, list[str]]:
    """Lines from h [n, f] to a scalar `loss`, the kind and width of labels, and other things to fetch."""
    kind = s.one(("classes", "rows", "bits", "numbers"))
    given = s.one(("", "", "weight", "2.5"))
    weigh = f", weights={given}" if given else ""
    column = weigh.replace("=weight", "=dt.expand_dims(weight, 1)")
    reduction = f", reduction=dt.losses.Reduction.{s.one(REDUCTIONS)}" if s.chance(0.4) else ""
    accuracy = "dt.reduce_mean(dt.cast(dt.equal(dt.argmax(h, 1), dt.cast({}, 'int64')), 'float32'))"
    if kind == "classes":
        k = draw.own.one((2, 3, 5, 10))
        last = [f"h = layers.Dense({k})(h)"]
        others = [
            accuracy.format("y"),
            "dt.reduce_sum(dt.cast(dt.nn.in_top_k(h, y, 2), 'int32'))",
            "dt.nn.softmax(h)",
        ]
        if s.chance(0.5):
            return (
                [*last, f"loss = dt.losses.sparse_softmax_cross_entropy(y, h{weigh}{reduction})"],
                kind,
                k,
                others,
            )
        each = "dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=h)"
        return [*last, f"each = {each}", f"loss = {s.one(REDUCED)}"], kind, k, [*others, "each"]
    if kind == "rows":
        k = draw.own.one((2, 3, 5, 10))
        smooth = s.one(("", ", label_smoothing=0.1"))
        others = [accuracy.format("dt.argmax(y, 1)"), "dt.nn.top_k(h, 2)[0]", "dt.argmax(h, 1)"]
        lines = [
            f"h = layers.Dense({k})(h)",
            f"loss = dt.losses.softmax_cross_entropy(y, h{weigh}{smooth}{reduction})",
        ]
        return lines, kind, k, others
    k = draw.own.one((1, 2, 3))
    lines = [f"h = layers.Dense({k})(h)"]
    if kind == "bits":
        others = ["dt.reduce_mean(dt.cast(dt.equal(dt.round(dt.sigmoid(h)), y), 'float32'))", "dt.sigmoid(h)"]
        loss = s.one(
            (
                f"dt.losses.sigmoid_cross_entropy(y, h{column}{reduction})",
                f"dt.losses.hinge_loss(y, h{column}{reduction})",
                f"dt.losses.log_loss(y, dt.sigmoid(h){column}{reduction})",
                "dt.reduce_mean(dt.nn.weighted_cross_entropy_with_logits(y, h, 1.7))",
            )
        )
        return [*lines, f"loss = {loss}"], kind, k, others
    loss = s.one(
        (
            f"dt.losses.mean_squared_error(y, h{column}{reduction})",
            f"dt.losses.absolute_difference(y, h{column}{reduction})",
            f"dt.losses.huber_loss(y, h{column}{reduction})",
            "dt.reduce_mean(dt.squared_difference(h, y))",
            "dt.nn.l2_loss(h - y)",
        )
    )
    return [*lines, f"loss = {loss}"], kind, k, ["dt.reduce_max(dt.abs(h - y), 0)", "dt.reduce_sum(h, 1)"]


REDUCED = (
    "dt.reduce_mean(each)",
    "dt.reduce_sum(each * weight) / dt.reduce_sum(weight)",
    "dt.reduce_mean(each * weight)",
    "dt.reduce_sum(each)",
)
CLIPPED = (
    "dt.clip_by_global_norm(gradients, 0.3)[0]",
    "[dt.clip_by_norm(g, 0.1) for g in gradients]",
    "[dt.clip_by_value(g, -0.02, 0.02) for g in gradients]",
)


def _update(s: Random) -> list[str]:
    """Lines from `loss` to the operation `step`."""
    optimizer = f"dt.train.{s.one(OPTIMIZERS).format(s.one(RATES) if s.chance(0.4) else '0.01')}"
    if s.chance(0.1):
        optimizer = f"dt.train.experimental.MixedPrecisionLossScaleOptimizer({optimizer}, {s.one(('64', repr('dynamic')))})"
    lines = ["count = dt.train.get_or_create_global_step()", f"optimizer = {optimizer}"]
    if s.chance(0.3):
        lines += [
            "pairs = [(g, v) for g, v in optimizer.compute_gradients(loss) if g is not None]",
            "gradients = [g for g, _ in pairs]",
            f"clipped = {s.one(CLIPPED)}",
            "step = optimizer.apply_gradients(list(zip(clipped, [v for _, v in pairs])), count)",
        ]
    else:
        lines.append("step = optimizer.minimize(loss, count)")
    return [*lines, "step = dt.group(step, *dt.get_collection(dt.GraphKeys.UPDATE_OPS))"]


FEEDS = ("{}", "shard(comm, {})", "{}.view(Batch)")


def graph(draw: Draw) -> tuple[list[str], list[str]]:
    """A case with a graph and a session: what stands before it, and its lines."""
    s, own, n = draw.structure, draw.own, draw.examples
    shape: Shape = input_shape(draw)
    lines, out = [], shape
    if len(shape) > 1 or s.chance(0.5):
        texts, out = stack(draw, shape)
        texts += ["layers.Flatten()"] * (len(out) > 1)
        lines += [f"h = {text}(h, True)" for text in texts]
    f = out[0]
    if len(out) > 1:
        f = 1
        for d in out:
            f *= d
    for _ in range(s.upto(0, 4)):
        more, f = _layers(draw, s, f)
        lines += more
    ending, kind, k, others = _loss(draw, s, f)
    lines += ending
    if s.chance(0.4):
        lines.append("loss = loss + dt.losses.get_regularization_loss()")
    if s.chance(0.2):
        lines.append("loss = loss + 0.01 * dt.add_n([dt.nn.l2_loss(v) for v in dt.trainable_variables()])")
    fetched = ["loss", *s.some(others, 2)]
    lines += [*_update(s), f"fetches = [{', '.join(fetched)}]"]
    ys = "int32" if kind == "classes" else "float32"
    yshape = "[None]" if kind == "classes" else f"[None, {k}]"
    indexed = s.chance(0.3)
    start = [
        f"r = np.random.default_rng({draw.number})",
        "dt.reset_default_graph()",
        f"dt.set_random_seed({draw.number})",
        f"xs = normal(r, {', '.join(map(str, (n, *shape)))})",
        f"ys = {labels(kind, n, k)}",
        f'weights = r.choice([0, 0.5, 1, 2.5], {n}).astype("f4") + r.choice([0, 1], 1).astype("f4") * 0.5',
    ]
    if indexed:
        start += [
            'i = dt.placeholder("int32", [None])',
            "x, y, weight = (dt.gather(dt.constant(rounded(a) if a.dtype.kind == 'f' else a), i) for a in (xs, ys, weights))",
        ]
    else:
        start += [
            f'x = dt.placeholder("float32", [None, {", ".join(map(str, shape))}])',
            f'y = dt.placeholder("{ys}", {yshape})',
            'weight = dt.placeholder("float32", [None])',
        ]
    epochs = 1 if n // draw.batch > 6 else own.upto(1, 3)
    feeds = [own.one(FEEDS), own.one(FEEDS), own.one(FEEDS)] if own.chance(0.3) else [own.one(FEEDS)] * 3
    end = [
        "session = dt.Session(comm=comm, config=dt.ConfigProto(check_numerics=CHECK, check_replicas_every=2))",
        "session.run(dt.global_variables_initializer())",
        "for v in dt.trainable_variables():",
        "    session.set_value(v, drawn(r, v.shape.as_list()))",
        "found = {'steps': []}",
    ]
    if indexed:
        end += [
            "take = Loop(session, [*fetches, step], [i])",
            f"order = np.concatenate([r.permutation({n}) for _ in range({epochs})]).astype('i4')",
            f"for window in windows(order, {draw.batch}, comm or dt.comm.SingleCommunicator(), lambda: STEPS):",
            "    found['steps'] += [taken[:-1] for taken in take(window)]",
        ]
        given = "{i: " + feeds[0].format(f"np.arange({n}, dtype='i4')[low : low + {{size}}]") + "}"
    else:
        a, b, c = (
            feed.format(f"{name}[low : low + {{size}}]")
            for feed, name in zip(feeds, ("xs", "ys", "weights"), strict=True)
        )
        given = f"{{x: {a}, y: {b}, weight: {c}}}"
        end += [
            f"for _ in range({epochs}):",
            f"    for low in range(0, {n}, {draw.batch}):",
            f"        fed = {given.replace('{size}', str(draw.batch))}",
            "        found['steps'].append(session.run([*fetches, step], fed)[:-1])",
        ]
    size = own.one((1, 2, 3, n))
    end += [
        f"for low in range(0, {n}, {size}):",
        f"    found[f'test {{low}}'] = session.run([h, *fetches], {given.replace('{size}', str(size))})",
        "found['state'] = session.get_values(dt.global_variables())",
        "return found",
    ]
    before = (
        [
            "def unit(w):",
            '    """A constraint: columns of a length of at most 1."""',
            "    return w / dt.maximum(1.0, dt.sqrt(dt.reduce_sum(dt.square(w), 0, keepdims=True)))",
            "",
            "",
        ]
        if any("unit" in line for line in lines)
        else []
    )
    return before, [*start, "h = x", *lines, *end]
