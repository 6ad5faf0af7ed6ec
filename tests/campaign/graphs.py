"""Cases as programs of TensorFlow 1: a graph, a Session, minimize, and feeds of all kinds."""

from __future__ import annotations

from math import prod

from draw import REGULARIZERS, Draw, Random, input_shape, labels, stack

ACTIVATIONS = (
    "dt.tanh({})",
    "dt.nn.relu({})",
    "dt.sigmoid({})",
    "dt.nn.elu({})",
    "dt.nn.selu({})",
    "dt.nn.softplus({})",
    "dt.nn.softsign({})",
    "dt.nn.swish({})",
    "dt.nn.leaky_relu({}, 0.1)",
    "dt.nn.relu6({})",
    "dt.nn.softmax({})",
    "dt.nn.log_softmax({})",
    "{}",
)

#: Of rows [n, k], many along the batch or among its rows: where ranks have to do more than their share.
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
    "h = dt.concat([h, h], 0)[::2] + h",
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
    "h = h + 0.1 * dt.random_normal(dt.shape(h), dtype=h.dtype, seed=5)",
    "h = h * dt.random_uniform(dt.shape(h)[1:], 0.5, 1.5, dtype=h.dtype, seed=6)",
    "h = dt.random_shuffle(h, seed=4) * 0.5 + h",
    "h = dt.clip_by_value(h, -1.3, 1.7)",
    "h = dt.minimum(dt.maximum(h, -1.1), dt.reduce_mean(h) + 2)",
    "h = dt.reshape(dt.reshape(h, [-1]), dt.shape(h))",
    "h = dt.split(dt.concat([h, dt.exp(-dt.square(h))], 1), 2, 1)[1] + h",
    "h = h - dt.stop_gradient(dt.reduce_mean(h))",
    "h = h + dt.cast(dt.size(h), h.dtype) * 0.01",
    "h = dt.pad(h, [[1, 0], [0, 0]])[:-1] + h",
    "h = dt.tile(h, [2, 1])[: dt.shape(h)[0]] * 0.9",
    "h = h * dt.cast(dt.greater(dt.reduce_sum(h, 1, keepdims=True), 0.0), h.dtype) + 0.1 * h",
)

RATES = (
    "0.01",
    "dt.train.exponential_decay(0.02, count, 3, 0.7)",
    "dt.train.polynomial_decay(0.02, count, 5, 0.001)",
    "dt.train.piecewise_constant(count, [2, 4], [0.01, 0.005, 0.001])",
    "dt.train.cosine_decay(0.02, count, 8)",
)
OPTIMIZERS = (
    "GradientDescentOptimizer({})",
    "MomentumOptimizer({}, 0.9)",
    "MomentumOptimizer({}, 0.8, use_nesterov=True)",
    "AdagradOptimizer({})",
    "AdadeltaOptimizer({})",
    "RMSPropOptimizer({})",
    "RMSPropOptimizer({}, 0.8, momentum=0.5)",
    "RMSPropOptimizer({}, centered=True)",
    "AdamOptimizer({})",
    "NadamOptimizer({})",
    "AdaMaxOptimizer({})",
)
SCALED = "dt.train.experimental.MixedPrecisionLossScaleOptimizer({}, {})"
REDUCTIONS = ("SUM", "MEAN", "SUM_OVER_BATCH_SIZE", "SUM_BY_NONZERO_WEIGHTS")
REDUCED = (
    "dt.reduce_mean(each)",
    "dt.reduce_sum(each * weight) / (0.1 + dt.reduce_sum(weight))",
    "dt.reduce_mean(each * weight)",
    "dt.reduce_sum(each)",
)
CLIPPED = (
    "dt.clip_by_global_norm(gradients, 0.3)[0]",
    "[dt.clip_by_norm(g, 0.1) for g in gradients]",
    "[dt.clip_by_value(g, -0.02, 0.02) for g in gradients]",
)
FEEDS = ("{}", "shard(comm, {})", "{}.view(Batch)")

UNIT = '''\
def unit(w):
    """A constraint: columns of a length of at most 1."""
    return w / dt.maximum(dt.ones_like(w), dt.sqrt(dt.reduce_sum(dt.square(w), 0, keepdims=True)))


'''


def _rows(draw: Draw, s: Random, f: int, double: bool) -> tuple[list[str], int]:
    """Lines that make rows h [n, f] into others, and how wide they are then."""
    if s.chance(0.5):
        return [s.one(ROWS)], f
    k, activation = draw.width(), s.one(ACTIVATIONS)
    if s.chance(0.5) and not double:
        regularizer = f", kernel_regularizer={s.one(REGULARIZERS)}" if s.chance(0.3) else ""
        return [f"h = {activation.format(f'layers.Dense({k}{regularizer})(h)')}"], k
    dtype = ', "f8"' * double
    weights = f"w = dt.Variable(drawn(r, ({f}, {k}){dtype}){', constraint=unit' * s.chance(0.15)})"
    if s.chance(0.2):
        return [weights, f"h = {activation.format('dt.matmul(h, w)')}"], k
    product = s.one(("dt.matmul(h, w) + b", "dt.nn.bias_add(dt.matmul(h, w), b)", "dt.nn.xw_plus_b(h, w, b)"))
    return [weights, f"b = dt.Variable(drawn(r, ({k},){dtype}))", f"h = {activation.format(product)}"], k


def _loss(draw: Draw, s: Random, f: int, double: bool) -> tuple[list[str], str, int, list[str]]:
    """Lines from h [n, f] to a scalar `loss`, the kind and width of labels, and other things to fetch."""
    kind, k = s.one(("classes", "rows", "bits", "numbers")), draw.own.one((2, 3, 5, 10))
    k = k if kind in ("classes", "rows") else draw.own.one((1, 2, 3))
    given = s.one(("", "", "weight", "2.5"))
    options = f", weights={given}" if given else ""
    options += f", reduction=dt.losses.Reduction.{s.one(REDUCTIONS)}" if s.chance(0.4) else ""
    column = options.replace("=weight", "=dt.expand_dims(weight, 1)")
    right = "dt.reduce_mean(dt.cast(dt.equal({}, {}), 'float32'))"
    last = f"h = layers.Dense({k})(h)"
    if double:
        last = f'h = dt.matmul(h, dt.Variable(drawn(r, ({f}, {k}), "f8")))'
    if kind == "classes":
        others = [right.format("dt.argmax(h, 1)", "dt.cast(y, 'int64')"), "dt.nn.softmax(h)"]
        others.append("dt.reduce_sum(dt.cast(dt.nn.in_top_k(dt.cast(h, 'float32'), y, 2), 'int32'))")
        if s.chance(0.5):
            return [last, f"loss = dt.losses.sparse_softmax_cross_entropy(y, h{options})"], kind, k, others
        each = "each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=h)"
        return [last, each, f"loss = {s.one(REDUCED)}"], kind, k, [*others, "each"]
    if kind == "rows":
        others = [
            right.format("dt.argmax(h, 1)", "dt.argmax(y, 1)"),
            "dt.nn.top_k(h, 2)[0]",
            "dt.argmax(h, 1)",
        ]
        options += s.one(("", ", label_smoothing=0.1"))
        return [last, f"loss = dt.losses.softmax_cross_entropy(y, h{options})"], kind, k, others
    if kind == "bits":
        others = [right.format("dt.round(dt.sigmoid(h))", "y"), "dt.sigmoid(h)", "dt.gradients(loss, h)[0]"]
        losses = (
            f"dt.losses.sigmoid_cross_entropy(y, h{column})",
            f"dt.losses.hinge_loss(y, h{column})",
            f"dt.losses.log_loss(y, dt.sigmoid(h){column})",
            "dt.reduce_mean(dt.nn.weighted_cross_entropy_with_logits(y, h, 1.7))",
        )
    else:
        others = ["dt.reduce_max(dt.abs(h - y), 0)", "dt.reduce_sum(h, 1)", "dt.gradients(loss, h)[0]"]
        losses = (
            f"dt.losses.mean_squared_error(y, h{column})",
            f"dt.losses.absolute_difference(y, h{column})",
            f"dt.losses.huber_loss(y, h{column})",
            "dt.reduce_mean(dt.squared_difference(h, y))",
            "dt.nn.l2_loss(h - y)",
        )
    return [last, f"loss = {s.one(losses)}"], kind, k, others


def _update(s: Random) -> list[str]:
    """Lines from `loss` to the operation `step`."""
    optimizer = f"dt.train.{s.one(OPTIMIZERS).format(s.one(RATES) if s.chance(0.4) else '0.01')}"
    if s.chance(0.1):
        optimizer = SCALED.format(optimizer, s.one(("64", "'dynamic'")))
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


def graph(draw: Draw) -> tuple[list[str], list[str]]:
    """A case with a graph and a session: what stands before it, and its lines."""
    s, own, n = draw.structure, draw.own, draw.examples
    shape, lines, double = input_shape(draw), ["h = x"], s.chance(0.12)
    if double:
        lines.append(f"h = dt.reshape(x, [-1, {prod(shape)}])")
    elif len(shape) > 1 or s.chance(0.5):
        texts, shape_ = stack(draw, shape)
        lines += [f"h = {text}(h, True)" for text in (*texts, *["layers.Flatten()"] * (len(shape_) > 1))]
    f = prod(shape if double or len(lines) == 1 else shape_)
    for _ in range(s.upto(0, 4)):
        more, f = _rows(draw, s, f, double)
        lines += more
    ending, kind, k, others = _loss(draw, s, f, double)
    if kind == "classes" and s.chance(0.3):
        table = f"drawn(r, ({k}, {f}), {'f8' if double else 'f4'!r})"
        lines.append(f"h = h * 0.5 + dt.nn.embedding_lookup(dt.Variable({table}), y)")
    lines += ending
    lines += ["loss = loss + dt.losses.get_regularization_loss()"] * (s.chance(0.4) and not double)
    penalty = "dt.add_n([dt.nn.l2_loss(v) for v in dt.trainable_variables()])"
    lines += [f"loss = loss + 0.01 * {penalty}"] * s.chance(0.2)
    lines += [*_update(s), f"fetches = [{', '.join(['loss', *s.some(others, 2)])}]"]

    indexed, dtype, name = s.chance(0.3), "f8" if double else "f4", "float64" if double else "float32"
    sizes = ", ".join(map(str, (n, *shape)))
    start = [
        f"r = np.random.default_rng({draw.number})",
        "dt.reset_default_graph()",
        f"dt.set_random_seed({draw.number})",
        f'xs = normal(r, {sizes}, dtype="{dtype}")',
        f"ys = {labels(kind, n, k, dtype=dtype)}",
        f'weights = (r.choice([0, 0.5, 1, 2.5], {n}) + r.choice([0, 0.5])).astype("{dtype}")',
    ]
    order = f"np.arange({n}, dtype='i4')"
    feeds = [own.one(FEEDS) for _ in range(3)] if own.chance(0.3) else [own.one(FEEDS)] * 3
    taken = '"int32", [None]' if kind == "classes" else f'"{name}", [None, {k}]'
    if indexed:
        start += [
            'i = dt.placeholder("int32", [None])',
            "tables = [a.astype(np.float32) if a.dtype == 'f4' else a for a in (xs, ys, weights)]",
            "x, y, weight = (dt.gather(dt.constant(table), i) for table in tables)",
        ]
        given = f"{{i: {feeds[0].format(f'{order}[low : low + SIZE]')}}}"
    else:
        start += [
            f'x = dt.placeholder("{name}", [None, {", ".join(map(str, shape))}])',
            f"y = dt.placeholder({taken})",
            f'weight = dt.placeholder("{name}", [None])',
        ]
        pairs = zip(("x", "y", "weight"), ("xs", "ys", "weights"), feeds, strict=True)
        given = ", ".join(f"{a}: {feed.format(f'{b}[low : low + SIZE]')}" for a, b, feed in pairs)
        given = f"{{{given}}}"

    epochs = 1 if n // draw.batch > 6 else own.upto(1, 3)
    end = [
        "config = dt.ConfigProto(check_numerics=CHECK, check_replicas_every=2)",
        "session = dt.Session(comm=comm, config=config)",
        "session.run(dt.global_variables_initializer())",
        "for v in dt.trainable_variables():",
        f'    session.set_value(v, drawn(r, v.shape.as_list(), "{dtype}"))',
        "found = {'steps': []}",
    ]
    if indexed:
        end += [
            "take = session.make_callable([*fetches, step], [i]).several",
            f"order = np.concatenate([r.permutation({n}) for _ in range({epochs})]).astype('i4')",
            "all_ranks = comm or dt.comm.SingleCommunicator()",
            f"for window in windows(order, {draw.batch}, all_ranks, lambda: STEPS):",
            "    found['steps'] += [taken[:-1] for taken in take(window)]",
        ]
    else:
        end += [
            f"for _ in range({epochs}):",
            f"    for low in range(0, {n}, {draw.batch}):",
            f"        fed = {given.replace('SIZE', str(draw.batch))}",
            "        found['steps'].append(session.run([*fetches, step], fed)[:-1])",
        ]
    size = own.one((1, 2, 3, n))
    end += [
        f"for low in range(0, {n}, {size}):",
        f"    fed = {given.replace('SIZE', str(size))}",
        "    found[f'test {low}'] = session.run([h, *fetches], fed)",
        "found['state'] = session.get_values(dt.global_variables())",
        "return found",
    ]
    before = UNIT.splitlines() if any("constraint=unit" in line for line in lines) else []
    return before, [*start, *lines, *end]
