"""Calls of layers: which layer made a tensor, and the same tensors made anew of other inputs.

A model is defined once, by calls on tensors of no examples. To train, test or predict, its calls are made
anew on tensors of the examples, each with what `training` is there. What lies between two layers, or was
computed of their tensors for a loss, are plain ops, which are copied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Graph, Operation, Tensor, TensorLike
from dtrain.ops.base import constant
from dtrain.ops.placeholders import placeholder_with_default

_CALLS, _MASKS, _PHASE = "keras calls", "keras masks", "keras learning phase"
_FROM_INPUT = "keras tensors of models"


class Call:
    """A layer on its arguments, and the tensors that came out; result has them as the layer gave them."""

    def __init__(self, layer: Any, arguments: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        self.layer, self.arguments, self.options, self.result = layer, arguments, options, result
        self.inputs, self.outputs = flat((arguments, options)), flat(result)

    def record(self) -> None:
        """Be what made the outputs, and one of the layer's calls."""
        defines = not self.inputs or any(from_input(t) for t in self.inputs)
        for tensor in self.outputs:
            tensor.graph.kept.setdefault(_CALLS, {})[tensor] = self
            if defines:
                tensor.graph.kept.setdefault(_FROM_INPUT, set()).add(tensor)
        self.layer.calls.append(self)


def call_of(tensor: Tensor) -> Call | None:
    """The call that made a tensor, if a layer did."""
    return tensor.graph.kept.get(_CALLS, {}).get(tensor)


def from_input(tensor: Tensor) -> bool:
    """Whether layers made it of an Input: it defines a model, and is never computed itself."""
    return tensor in tensor.graph.kept.get(_FROM_INPUT, ())


def mask_of(tensor: Any) -> Tensor | None:
    """Which steps of a tensor's sequences count, bool [batch, steps]; None where all do."""
    return tensor.graph.kept.get(_MASKS, {}).get(tensor) if isinstance(tensor, Tensor) else None


def set_mask(tensor: Tensor, mask: Tensor) -> None:
    """Say which steps of its sequences count."""
    tensor.graph.kept.setdefault(_MASKS, {})[tensor] = mask


def flat(value: Any) -> list[Tensor]:
    """The tensors in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in flat(v)]
    return [t for v in value for t in flat(v)] if isinstance(value, list | tuple) else []


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Lists, tuples and dicts with other tensors in them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {k: mapped(function, v) for k, v in value.items()}
    return type(value)(mapped(function, v) for v in value) if type(value) in (list, tuple) else value


# -- where a call stands ---------------------------------------------------------------------------------
class _Here(threading.local):
    depth = 0
    training: Any = None
    gathered: Replay | None = None
    quiet = False


_here = _Here()


@contextmanager
def inside(depth: int | None = None) -> Iterator[bool]:
    """A call's block: whether no other is around it. depth: that of its inside, by default one more."""
    outer = _here.depth
    _here.depth = outer + 1 if depth is None else depth
    try:
        yield outer == 0
    finally:
        _here.depth = outer


@contextmanager
def phase(training: Any) -> Iterator[None]:
    """What learning_phase() is inside."""
    outer = _here.training
    _here.training = training
    try:
        yield
    finally:
        _here.training = outer


@contextmanager
def quiet(really: bool) -> Iterator[None]:
    """Updates inside are for a model alone, and not in the graph's collection of what a step should run."""
    outer = _here.quiet
    _here.quiet = outer or really
    try:
        yield
    finally:
        _here.quiet = outer


@contextmanager
def definition() -> Iterator[None]:
    """Calls inside define a network on no examples, also where one is replayed around it: it does not train,
    and no step runs what they add.
    """
    outer = _here.depth, _here.training, _here.gathered, _here.quiet
    _here.depth, _here.training, _here.gathered, _here.quiet = 0, False, None, True
    try:
        yield
    finally:
        _here.depth, _here.training, _here.gathered, _here.quiet = outer


def is_quiet() -> bool:
    """Whether updates are for a model alone."""
    return _here.quiet


def gathered() -> Replay | None:
    """Where calls add their losses and updates."""
    return _here.gathered


def learning_phase(graph: Graph) -> Any:
    """Whether a graph trains: what a replay says, or a float32 scalar that is 0 unless it is fed."""
    if _here.training is not None:
        return _here.training
    if _PHASE not in graph.kept:
        with graph.as_default(), graph.name_scope(None), graph.control_dependencies(None):
            graph.kept[_PHASE] = placeholder_with_default(constant(0.0), [], name="keras_learning_phase")
    return graph.kept[_PHASE]


def set_learning_phase(graph: Graph, value: Any) -> None:
    """Let what is built in a graph from here on train, or not."""
    graph.kept[_PHASE] = bool(value) if not isinstance(value, TensorLike) else value


# -- calls in order --------------------------------------------------------------------------------------
def order(tensors: Iterable[Tensor], known: Iterable[Tensor] = ()) -> list[Call | Operation]:
    """What makes the tensors of those that are known: calls, and ops between them, in an order of doing."""
    found: list[Call | Operation] = []
    have, seen = set(known), set[Any]()
    left: list[tuple[Any, bool]] = [(t, False) for t in reversed([*tensors])]
    while left:
        item, done = left.pop()
        if done:
            found.append(item)
            continue
        maker = (call_of(item) or item.op) if isinstance(item, Tensor) else item
        if (isinstance(item, Tensor) and item in have) or maker in seen:
            continue
        seen.add(maker)
        left.append((maker, True))
        left.extend((t, False) for t in reversed(maker.inputs))
    return found


class Replay:
    """Tensors made anew: given has what stands for some of them, of another call or of examples.

    losses, updates: what the layers add to the loss, and want a step of training to run.
    """

    def __init__(self, given: Mapping[Tensor, Tensor], training: Any) -> None:
        self._made, self._training = dict(given) | {t: t for t in given.values() if t not in given}, training
        self.losses: list[Tensor] = []
        self.updates: list[Any] = []

    @contextmanager
    def block(self) -> Iterator[None]:
        """Calls inside add their losses and updates to this one, and take its `training`."""
        outer = _here.training, _here.gathered
        _here.training = outer[0] if self._training is None else self._training
        _here.gathered = outer[1] or self
        try:
            with quiet(_here.depth == 0), inside():  # of a network that a model trains or tests itself
                yield
        finally:
            _here.training, _here.gathered = outer

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What the tensors are here; those that depend on nothing given are themselves.

        Raises:
            GraphError: one depends on an Input that is not given.
        """
        made = self._made
        graph = tensors[0].graph if tensors else None
        if graph is not None and self._training is not None and isinstance(graph.kept.get(_PHASE), Tensor):
            phase = graph.kept[_PHASE]
            if phase not in made:
                made[phase] = (
                    constant(float(self._training)) if isinstance(self._training, bool) else self._training
                )
        with self.block():
            for maker in order(tensors, made):
                if isinstance(maker, Call) and not maker.inputs and maker.layer.is_input:
                    raise GraphError(
                        f"Graph disconnected: {maker.layer.name} is an Input that the outputs depend on, and "
                        "it is not among the model's inputs."
                    )
                new = [made.get(t, t) for t in maker.inputs]
                if all(a is b for a, b in zip(new, maker.inputs, strict=True)):
                    made.update((t, t) for t in maker.outputs)
                elif isinstance(maker, Call):
                    here = lambda t: made.get(t, t)  # noqa: E731
                    arguments, options = mapped(here, maker.arguments), mapped(here, maker.options)
                    result = maker.layer(*arguments, **options)
                    if maker.layer.may_close:
                        result = mapped(lambda t: self.of([t])[0], result)
                    made.update(zip(maker.outputs, flat(result), strict=True))
                else:
                    name = maker.name.rpartition("/")[2]
                    copy = maker.graph.add(maker.kind, tuple(new), name)
                    made.update(zip(maker.outputs, copy.outputs, strict=True))
        return [made.get(t, t) for t in tensors]

    def also(self, tensors: Iterable[Tensor]) -> None:
        """These are of the new graph already."""
        self._made.update((t, t) for t in tensors)
