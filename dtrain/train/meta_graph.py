"""Graphs in files: what Saver.save writes beside the values, and what import_meta_graph builds of it.

A meta graph is dtrain's own JSON: the operations (graph/graph_def.py), which of them are variables, what the
collections hold and which variables a Saver saves. Nothing in it is executed, so what only Python has, such
as the function of a py_func or a data set, is not in it: operations that need it are left out, and said.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtrain.comm import world
from dtrain.errors import (
    CheckpointError,
    DtrainError,
    GraphError,
    InvalidArgumentError,
    NotSupportedError,
    UsageError,
)
from dtrain.files import read_regular, write_atomically
from dtrain.graph.graph import Graph, Operation, Tensor, get_default_graph
from dtrain.graph.graph_def import DECIDERS, GraphDef, NodeDef, graph_def_of, packed, unpacked
from dtrain.graph.shape import Dims
from dtrain.ops.base import REGISTRY, Value
from dtrain.ops.late import Later
from dtrain.ops.slicing import Run, Span
from dtrain.ops.state import Variable
from dtrain.ops.subgraph import Body

FORMAT = "dtrain meta graph 1"
#: Bytes of a meta graph, at most.
MOST_BYTES = 1 << 31
NAMED = {kind.__name__: kind for kind in (Later, Span, Run)}


@dataclass
class MetaGraphDef:
    """A graph, its variables and collections, and the variables of a Saver, as plain data.

    variables: of each the names of its operation, its initial value and the operations that make and assign
    it, and whether optimizers update it. saver: variables' operations by their names in a checkpoint; None
    where there is no Saver. signature_def: inputs and outputs by the names that a saved model gives them.
    """

    graph_def: GraphDef = field(default_factory=GraphDef)
    seed: int | None = None
    variables: list[list[Any]] = field(default_factory=list)
    collection_def: dict[str, list[Any]] = field(default_factory=dict)
    saver: dict[str, str] | None = None
    signature_def: dict[str, Any] = field(default_factory=dict)

    def SerializeToString(self) -> bytes:
        """The whole as bytes."""
        content = {name: value for name, value in vars(self).items() if name != "signature_def"}
        content["graph_def"] = self.graph_def.SerializeToString().decode()
        return json.dumps({"format": FORMAT, **content}).encode()

    @classmethod
    def FromString(cls, serialized: bytes) -> MetaGraphDef:
        """Of what SerializeToString gave; raises InvalidArgumentError for anything else."""
        try:
            content = json.loads(serialized)
            if content.pop("format") != FORMAT:
                raise ValueError("its format is another")
            graph = GraphDef.FromString(content.pop("graph_def").encode())
            return cls(graph_def=graph, **content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgumentError(
                f"this is no meta graph that dtrain wrote ({error}); those of TensorFlow are not read."
            ) from None


def meta_graph_of(graph: Graph, saved: Mapping[str, Variable] | None = None) -> MetaGraphDef:
    """A graph as a MetaGraphDef. saved: what a Saver saves, by its name in the file."""
    variables = {v: None for v in graph.kept.get("variables", {}).values()}
    return MetaGraphDef(
        graph_def_of(graph.operations),
        graph.seed,
        [
            [v.op.name, v.initial_value.name, v._settled.name, v.initializer.name, v.trainable]
            for v in variables
        ],
        {
            name: [form for value in values if (form := _collected(value)) is not None]
            for name, values in graph.collections.items()
            if isinstance(name, str)
        },
        None if saved is None else {name: v.op.name for name, v in saved.items()},
    )


def _collected(value: Any) -> Any:
    """What a collection holds, as JSON; None for what has no place there."""
    if isinstance(value, Variable):
        return {"variable": value.op.name}
    form = packed(value)
    return None if isinstance(form, dict) and "python" in form else form


# -- building ----------------------------------------------------------------------------------------------
def import_graph_def(
    graph_def: GraphDef,
    input_map: Mapping[str, Any] | None = None,
    return_elements: Sequence[str] | None = None,
    name: str | None = None,
    op_dict: None = None,
    producer_op_list: None = None,
) -> list[Tensor | Operation] | None:
    """Build the operations of a GraphDef into the default graph, below the scope `name`, by default import.

    input_map: tensors that take the places of some by their names. return_elements: names of tensors and
    operations to return. Variables come without their Python objects: import_meta_graph brings those.

    Raises:
        GraphError: the graph has an operation of such a name already, or something in it is not there.
        UsageError: op_dict or producer_op_list is given.
    """
    if op_dict is not None or producer_op_list is not None:
        raise UsageError("import_graph_def: op_dict and producer_op_list are not supported: leave them out.")
    if not isinstance(graph_def, GraphDef):
        raise GraphError(f"import_graph_def: {type(graph_def).__name__} is no GraphDef.")
    scope = "import" if name is None else name.rstrip("/")
    given = {key if ":" in key else f"{key}:0": tensor for key, tensor in (input_map or {}).items()}
    built = _build(graph_def, get_default_graph(), f"{scope}/" if scope else "", given)
    if return_elements is None:
        return None
    return [built.tensor(key) if ":" in key else built.operation(key) for key in return_elements]


class _Built:
    """What has been built of a GraphDef so far, by the names there."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self.operations: dict[str, Operation] = {}
        self.given = given

    def operation(self, name: str) -> Operation:
        if name not in self.operations:
            raise GraphError(f"the graph that is imported has no operation {name!r}.")
        return self.operations[name]

    def tensor(self, name: str) -> Tensor:
        """By '<operation>:<output>', or the operation's name for the first."""
        operation, _, index = name.partition(":")
        if (found := self.given.get(f"{operation}:{index or 0}")) is not None:
            return found
        outputs = self.operation(operation).outputs
        if int(index or 0) >= len(outputs):
            raise GraphError(f"the graph that is imported has no tensor {name!r}.")
        return outputs[int(index or 0)]

    def made(self, kind: str, content: Any) -> Any:
        """An attribute that is of the ops' own types."""

        def value(form: Any) -> Any:
            return unpacked(form, self.made)

        match kind:
            case "tensor":
                return self.tensor(content)
            case "operation":
                return self.operation(content)
            case "named" if content[0] in NAMED:
                return NAMED[content[0]](*map(value, content[1]))
            case "value":
                return Value(value(content))
            case "op":
                return self.op(content[0], {key: value(form) for key, form in content[1].items()})
            case "body":
                inside = {self.operation(name) for name in content[2]}
                return Body(value(content[0]), value(content[1]), inside.__contains__)
        raise NotSupportedError(f"a {content if kind == 'python' else kind}")

    def op(self, name: str, attributes: Mapping[str, Any]) -> Any:
        if name not in REGISTRY:
            raise GraphError(f"dtrain has no op {name!r}; graphs of TensorFlow are not imported.")
        return REGISTRY[name](**attributes)


def _build(definition: GraphDef, graph: Graph, prefix: str, given: Mapping[str, Any]) -> _Built:
    """Add the operations of a GraphDef to a graph under their names after a prefix."""
    built, left_out = _Built(given), dict[str, str]()
    with graph.as_default(), graph.control_dependencies(None), graph.name_scope(None):
        for node in definition.node:
            names = [name.lstrip("^").partition(":")[0] for name in node.input]
            if why := next((left_out[name] for name in names if name in left_out), ""):
                left_out[node.name] = why
                continue
            try:
                built.operations[node.name] = _add(node, graph, prefix, built)
            except NotSupportedError as error:
                left_out[node.name] = f"{node.name} needs {error}"
            except DtrainError:
                raise
            except Exception as error:  # whatever an op's own code says of attributes that are none
                raise InvalidArgumentError(
                    f"the graph's operation {node.name!r} ({node.op}) cannot be made of what the file says "
                    f"of it ({type(error).__name__}): the file is damaged, or of another version."
                ) from None
    if left_out:
        why = next(iter(left_out.values()))
        warnings.warn(
            f"{len(left_out)} operations are not imported: {why}, which no file keeps.", stacklevel=4
        )
    return built


def _add(node: NodeDef, graph: Graph, prefix: str, built: _Built) -> Operation:
    attributes = {
        key: unpacked(packed(value), built.made) for key, value in node.attr.items() if key[0] != "_"
    }
    full = prefix + node.name
    if full in graph._by_name:
        raise GraphError(
            f"the graph has an operation {full!r} already: import into a new one, after "
            "reset_default_graph(), or give import_scope or name."
        )
    inputs = tuple(built.tensor(name) for name in node.input if name[0] != "^")
    waits = tuple(built.operation(name[1:]) for name in node.input if name[0] == "^")
    graph.unique_name(full)
    made = graph.add(built.op(node.op, attributes), inputs, f"{full}/", waits)
    for tensor, shape in zip(made.outputs, node.attr.get("_output_shapes", ()), strict=False):
        dims: Dims = shape.dims
        tensor.spec = tensor.spec._replace(shape=dims)
    if node.attr.get("_decides"):
        graph.kept.setdefault(DECIDERS, set()).update(made.outputs)
    return made


def _variable(built: _Built, names: Sequence[Any]) -> Variable:
    """A variable of operations that have been built."""
    operation, initial, settled, initializer, trainable = names
    memory, value, given = map(built.tensor, (operation, initial, settled))
    return Variable.of(memory, value, given, built.operation(initializer), trainable)


def build(meta: MetaGraphDef, import_scope: str | None = None) -> dict[str, Variable]:
    """Build a meta graph into the default graph; its variables by their operations' names there."""
    graph = get_default_graph()
    built = _build(meta.graph_def, graph, f"{import_scope.rstrip('/')}/" if import_scope else "", {})
    if graph.seed is None:
        graph.seed = meta.seed
    variables = {
        names[0]: _variable(built, names)
        for names in meta.variables
        if all(str(name).partition(":")[0] in built.operations for name in names[:4])
    }

    def value(kind: str, content: Any) -> Any:
        return variables[content] if kind == "variable" else built.made(kind, content)

    for name, forms in meta.collection_def.items():
        for form in forms:
            try:
                graph.add_to_collection(name, unpacked(form, value))
            except (GraphError, NotSupportedError, KeyError):
                continue  # of an operation that is left out, which has been said
    return variables


# -- TensorFlow's functions --------------------------------------------------------------------------------
def export_meta_graph(
    filename: str | os.PathLike[str] | None = None,
    meta_info_def: None = None,
    graph_def: None = None,
    saver_def: None = None,
    collection_list: Iterable[str] | None = None,
    as_text: bool = False,
    graph: Graph | None = None,
    export_scope: None = None,
    clear_devices: bool = False,
    clear_extraneous_savers: bool = False,
    strip_default_attrs: bool = False,
    *,
    saved: Mapping[str, Variable] | None = None,
) -> MetaGraphDef:
    """A graph, by default the default one, as a MetaGraphDef, which rank 0 also writes into a file.

    collection_list: the collections that it holds, by default all. There are no devices to clear, and JSON is
    text: as_text, clear_devices, clear_extraneous_savers and strip_default_attrs change nothing.

    Raises:
        UsageError: meta_info_def, graph_def, saver_def or export_scope is given.
        CheckpointError: the file cannot be written.
    """
    for option, value in (
        ("meta_info_def", meta_info_def),
        ("graph_def", graph_def),
        ("saver_def", saver_def),
        ("export_scope", export_scope),
    ):
        if value is not None:
            raise UsageError(f"export_meta_graph: {option} is not supported; leave it out.")
    meta = meta_graph_of(graph or get_default_graph(), saved)
    if collection_list is not None:
        wanted = set(collection_list)
        meta.collection_def = {k: v for k, v in meta.collection_def.items() if k in wanted}
    if filename is not None and world().rank == 0:
        try:
            Path(filename).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(filename), meta.SerializeToString())
        except OSError as error:
            raise CheckpointError(f"the graph cannot be saved as {filename}: {error}.") from None
    return meta


def import_meta_graph(
    meta_graph_or_file: MetaGraphDef | str | os.PathLike[str],
    clear_devices: bool = False,
    import_scope: str | None = None,
    **kwargs: Any,
) -> Any:
    """Build a meta graph into the default graph; the Saver that it was written by, or of all its variables.

    meta_graph_or_file: a MetaGraphDef, or the file that Saver.save wrote, `<path>-<step>.meta`. Every rank
    reads it. There are no devices to clear. kwargs: the Saver's own arguments. None where there are no
    variables.

    Raises:
        CheckpointError: the file cannot be read.
        InvalidArgumentError: it is no meta graph of dtrain's.
        GraphError: the graph has operations of these names already.
    """
    from dtrain.train.saver import Saver

    meta = meta_graph_or_file
    if not isinstance(meta, MetaGraphDef):
        try:
            meta = MetaGraphDef.FromString(read_regular(Path(meta), MOST_BYTES))
        except OSError as error:
            raise CheckpointError(f"{meta_graph_or_file} cannot be read: {error}.") from None
    variables = build(meta, import_scope)
    saved = meta.saver if meta.saver is not None else {name: name for name in variables}
    found = {name: variables[operation] for name, operation in saved.items() if operation in variables}
    return Saver(found, **kwargs) if found else None
