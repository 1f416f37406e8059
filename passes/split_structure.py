"""The structure half of a graph becomes one module, so that it can be computed once for many calls.

``compiled.structure.half`` defines which nodes belong to it. The module takes arguments, and sizes and dtypes of
features, which are read outside. It returns every value that the rest of the graph reads of the half, arguments
included, so that a handle can replace them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from upscale_fx.compiled.check_inputs import check_inputs
from upscale_fx.compiled.module import CompiledGNN, make_module, record_of
from upscale_fx.compiled.structure.half import Half, HalfPart, argument_name, find_structure
from upscale_fx.compiled.structure.modules import Input, StructureModule, StructurePart, structure_of
from upscale_fx.compiled.structure.recipe import digest, recipes, summary_of
from upscale_fx.passes.base import edited

_NOWHERE = {"module": "", "source": ""}


@dataclass(frozen=True)
class SplitStructure:
    """Make the structure half a module, which a prepared graph can replace; exact."""

    def __call__(self, gm: CompiledGNN) -> PassResult:
        """Run the pass."""
        return edited(gm, split_structure)


def split_structure(gm: CompiledGNN) -> bool:
    """Move the structure half into a module, in place; False if there is none, or a module holds it already."""
    half = None if structure_of(gm) is not None else find_structure(gm)
    if half is not None:
        split(gm, half)
    return half is not None


def split(gm: CompiledGNN, half: Half) -> None:
    """Move the structure half into a module."""
    graph = gm.graph
    check = next(node for node in graph.nodes if node.target is check_inputs)
    _put_first(graph, [*(node for node in graph.nodes if node.op == "placeholder"), check])
    inputs = _inputs(graph, half, check)
    built = [_build(part, inputs, check) for part in half.parts]
    name = "structure"
    while hasattr(gm, name):
        name += "_half"
    structure = StructureModule([part for part, _ in built], tuple(inputs.values()), record_of(gm).name)
    gm.add_module(name, structure.train(gm.training))
    with graph.inserting_after(max((*inputs, check), key=list(graph.nodes).index)):
        call = graph.create_node("call_module", name, tuple(inputs), name=name)
    call.meta.update(_NOWHERE)
    _read_results(half, call, check, [node for _, results in built for node in results])
    arguments = {str(node.target): node for part in half.parts for node in part.arguments}
    check.args = (*check.args[:3], arguments)
    _make_optional(check, [node for node in arguments.values() if node is not primary(half)])


def _put_first(graph: fx.Graph, nodes: list[fx.Node]) -> None:
    """Move nodes to the beginning of a graph, in this order."""
    for node in reversed(nodes):
        first = next(iter(graph.nodes))
        if first is not node:
            first.prepend(node)


def _inputs(graph: fx.Graph, half: Half, check: fx.Node) -> dict[fx.Node, Input]:
    """What the module takes: arguments, and sizes, dtypes and devices, read right after the check of the inputs.

    The half does not compute with all of these sizes, nor with the device: a handle compares them with its own.
    """
    inputs = {node: Input("argument", str(node.target)) for part in half.parts for node in part.arguments}
    inside = {node for part in half.parts for node in part.nodes}
    last = check
    early = _with_sources([*half.features, *half.reads])
    for node in [node for node in graph.nodes if node in early and node.op != "placeholder"]:
        last.append(node)
        last = node
    for node, read in half.reads.items():
        if read.kind == "rows" or not inside.isdisjoint(node.users):
            inputs[node] = read
    known = {node.args[:2] for node in half.reads}
    missing: list[tuple[fx.Node, Input]] = []
    for node, spec in half.features.items():
        for axis, symbol in enumerate(spec.axes):
            if isinstance(symbol, str) and not known & {(node, axis), (node, axis - len(spec.axes))}:
                with graph.inserting_after(last):
                    last = graph.call_method("size", (node, axis))
                missing.append((last, Input("rows", argument_name(node), symbol)))
    if half.features and not any(read.kind == "device" for read in inputs.values()):
        first = next(iter(half.features))
        with graph.inserting_after(last):
            last = graph.call_function(getattr, (first, "device"))
        missing.append((last, Input("device", argument_name(first))))
    for node, _ in missing:
        node.meta.update(_NOWHERE)
    return inputs | dict(missing)


def _with_sources(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Nodes, and all nodes that they are computed from."""
    sources: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        sources.add(node)
        waiting += node.all_input_nodes
    return sources


def _build(part: HalfPart, inputs: Mapping[fx.Node, Input], check: fx.Node) -> tuple[StructurePart, list[fx.Node]]:
    """A module that computes a part, and the nodes whose values it returns, in an order independent of names."""
    read = {source for node in part.nodes for source in node.all_input_nodes} | set(part.arguments)
    places = {node: place for place, node in enumerate(inputs) if node in read}
    graph = fx.Graph()
    inner = {node: graph.placeholder(node.name) for node in places}
    identities = {inner[node]: inputs[node].identity for node in places}
    for node in part.nodes:
        inner[node] = graph.node_copy(node, inner.__getitem__)
    known = recipes(graph, identities)
    inside = {*part.computed, check}
    results = [node for node in (*part.arguments, *part.computed) if any(user not in inside for user in node.users)]
    results.sort(key=lambda node: known[inner[node]])
    graph.output(tuple(inner[node] for node in results))
    arguments = tuple(str(node.target) for node in part.arguments)
    recipe = digest([*arguments, *(known[inner[node]] for node in results)])
    module = make_module(nn.Module(), graph, {}, training=False)
    return StructurePart(module, recipe, arguments, tuple(places.values()), summary_of(part.computed)), results


def _read_results(half: Half, call: fx.Node, check: fx.Node, results: list[fx.Node]) -> None:
    """Let the rest of the graph read the values that the module returns, and erase what computed them."""
    graph = call.graph
    computed = [node for part in half.parts for node in part.computed]
    inside = {*computed, call, check}
    for place, node in reversed(list(enumerate(results))):
        with graph.inserting_after(call):
            value = graph.call_function(operator.getitem, (call, place))
        value.meta = dict(node.meta) if node.op != "placeholder" else dict(_NOWHERE)
        node.replace_all_uses_with(value, lambda user: user not in inside)
    for node in reversed([node for node in graph.nodes if node in set(computed)]):
        graph.erase_node(node)


def primary(half: Half) -> fx.Node:
    """The argument that a handle is passed as: the edges."""
    return half.parts[0].arguments[0]


def _make_optional(check: fx.Node, arguments: list[fx.Node]) -> None:
    """Give arguments a default, so that calls with a handle can leave them out.

    Python then needs a default for all arguments that follow. The check refuses those that are missing, so arguments
    that it does not read stay required, and all before them.
    """
    placeholders = [node for node in check.graph.nodes if node.op == "placeholder"]
    unchecked = [i for i, node in enumerate(placeholders) if not node.args and check not in node.users]
    start = unchecked[-1] + 1 if unchecked else 0
    optional = [i for i, node in enumerate(placeholders) if node in arguments and i >= start]
    for node in placeholders[optional[0] :] if optional else []:
        node.args = node.args or (None,)
