"""The GraphModule that upscale_fx returns: it can be pickled, knows its inputs, and refuses a mode it cannot run in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from upscale_fx.compiled.deferred_code import DeferredCode, code_when_called
from upscale_fx.compiled.guards.edits import check_unedited, is_read
from upscale_fx.compiled.guards.listed_nodes import list_all_nodes, missing_target
from upscale_fx.compiled.guards.part_state import compare_states_of_parts
from upscale_fx.compiled.guards.state import KEY, check_fingerprint, check_state, fingerprint
from upscale_fx.compiled.guards.transforms import FOLLOWED, with_transforms
from upscale_fx.compiled.inputs import ModelInputs
from upscale_fx.compiled.layers.additions import copy_additions, without_additions
from upscale_fx.compiled.layers.calls import with_layers
from upscale_fx.compiled.layers.copies import copied_fields, targets_of
from upscale_fx.compiled.objects.arguments import built
from upscale_fx.compiled.objects.calls import prepares_calls, with_objects
from upscale_fx.compiled.parts import Part, Switching, copy_modes, make_parts, refuse_training, switch_as_model
from upscale_fx.compiled.record import GraphRecord, NodeRecord
from upscale_fx.compiled.record.graph import RECORD
from upscale_fx.compiled.record.nodes import copied_graph, graph_of, record_nodes

# Attributes that GraphModule makes from the graph, so that a pickle need not hold them.
_DERIVED = ("_graph", "_code", "_lineno_map", "_prologue_start", "_replace_hooks", "_create_node_hooks",
            "_erase_node_hooks", "_deepcopy_hooks", "_wrapped_call", "_coded", "_layers_in_code",
            "_graphs_without_types", FOLLOWED)  # fmt: skip


class CompiledGNN(Switching, DeferredCode):
    """A GNN as an FX graph.

    Passes and reports also read its :class:`GraphRecord` (:func:`record_of`). The record is an entry of FX's ``meta``
    and not an attribute, because a model may have a layer of any name.
    """

    def train(self, mode: bool = True) -> CompiledGNN:
        """Switch dropout and batch norm; raises ModeError if the graph is right in ``eval()`` only."""
        record = _record_if_made(self)
        if mode and record is not None:
            refuse_training("graph", record.eval_only)
        super().train(mode)
        if record is not None:
            switch_as_model(self, record.after_switch.get("", {}), mode)
        return self

    def check_can_train(self) -> None:
        """Raise a ModeError if the graph is right in ``eval()`` only."""
        record = _record_if_made(self)
        if record is not None:
            refuse_training("graph", record.stays_in_eval(""))

    def get_extra_state(self) -> Tensor | None:
        """Return the digest ``[17]`` of the layout of the channels; None if all parameters are whole and in place."""
        names = {name for name, _ in (*self.named_parameters(remove_duplicate=False), *self.named_buffers())}
        return fingerprint(_record_if_made(self), names)

    def set_extra_state(self, state: Any) -> None:
        """Compare the digest of a state with the graph's own; raises StateError if they differ."""
        check_fingerprint(self.get_extra_state(), state, record_of(self).name)

    # functional_call() puts the entries of a state in place as attributes.
    _extra_state = property(get_extra_state, set_extra_state)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if destination[prefix + KEY] is None:  # then the state is one of the model, too
            del destination[prefix + KEY]

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        *others: Any,
    ) -> None:  # fmt: skip
        own = self.get_extra_state()
        check_state(own, self.meta.get(RECORD), stored_tensors(self), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *others)
        if own is None and prefix + KEY in missing_keys:
            missing_keys.remove(prefix + KEY)

    def delete_all_unused_submodules(self) -> None:
        """Delete modules that neither the graph reads nor, if it is fused, the graph from before."""
        reads = _reads(self.meta.get(RECORD))
        with self.graph.inserting_before():  # at the beginning
            kept = [self.graph.create_node(node.op, node.target) for node in reads]
        super().delete_all_unused_submodules()
        for node in kept:
            self.graph.erase_node(node)

    def write_code(self) -> Any:
        """Write the code of the graph, and take objects apart before it if the traced model took any."""
        code = super().write_code()
        for made in ("_graphs_without_types", FOLLOWED):  # of the graph as it was
            self.__dict__.pop(made, None)
        record = _record_if_made(self)
        if record is not None and record.plain is not None:
            type(self).forward = with_transforms(type(self).forward)
        if record is not None and prepares_calls(record):
            type(self).forward = with_objects(type(self).forward)
        return code

    def graph_of_code(self) -> fx.Graph:
        """The graph, with calls of modules in the place of functions that read their tensors."""
        return with_layers(self, self.graph, _record_if_made(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # FX's own pickling traces the generated code again, which fails for PyG's functions.
        body = {key: value for key, value in self.__dict__.items() if key not in _DERIVED}
        return _rebuild, (record_nodes(self.graph), body)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGNN:
        # FX's own deep copy forgets which buffers are not persistent.
        body = copied_fields(self, memo, _DERIVED)
        root = nn.Module()
        root.__dict__.update(body)
        return make_module(root, copied_graph(self.graph), body["meta"], body["training"], as_it_was=True)


def _rebuild(records: Sequence[NodeRecord], body: dict[str, Any]) -> CompiledGNN:
    root = nn.Module()
    root.__dict__.update(body)
    return make_module(root, graph_of(records), body["meta"], body["training"], as_it_was=True)


def all_nodes(gm: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes of a graph and of the graphs it calls."""
    return [node for part in gm.modules() if isinstance(part, fx.GraphModule) for node in part.graph.nodes]


def _record_if_made(gm: CompiledGNN) -> GraphRecord | None:
    """The record of a graph; None of a structure half, and while FX makes the module."""
    record: GraphRecord | None = gm.__dict__.get("meta", {}).get(RECORD)
    return record


def record_of(gm: CompiledGNN) -> GraphRecord:
    """Return the record of a graph."""
    record: GraphRecord = gm.meta[RECORD]
    return record


def inputs_of(gm: CompiledGNN) -> ModelInputs:
    """Return the description of a graph's arguments."""
    return record_of(gm).inputs


def meta_with(gm: CompiledGNN, **changes: Any) -> dict[str, Any]:
    """Return the ``meta`` for a graph made from this one, with these fields of the record changed."""
    return {**gm.meta, RECORD: replace(record_of(gm), **changes)}


def note(gm: CompiledGNN, **changes: Any) -> None:
    """Change fields of a graph's record."""
    gm.meta = meta_with(gm, **changes)


def remember_unfused(gm: CompiledGNN) -> None:
    """Record the nodes as they are before fusing, so that the fused graph can be analysed and pruned again."""
    note(gm, plain=record_nodes(gm.graph))


def remember_fused(gm: CompiledGNN) -> None:
    """List the nodes as they are after fusing, so that changes by hand are noticed."""
    note(gm, fused=list_all_nodes(gm))


def is_fused(gm: CompiledGNN) -> bool:
    """Whether message passing was fused; the record then holds the nodes from before."""
    return record_of(gm).plain is not None


def unfused(gm: CompiledGNN) -> CompiledGNN:
    """Return the graph from before fusing, over the same parameters; the graph itself if it was never fused.

    Raises:
        EditedGraphError: the graph was changed by hand in a way that the result would not have.
    """
    record = record_of(gm)
    check_unedited(gm, record)
    gm = without_additions(gm)
    records = record.plain
    if records is None:
        return gm
    root = nn.Module()
    root.__dict__.update({key: value for key, value in gm.__dict__.items() if key not in _DERIVED})
    meta = meta_with(gm, plain=None, fused=None)
    return make_module(root, graph_of([node.copied() for node in records]), meta, gm.training)


def _reads(record: GraphRecord | None) -> list[NodeRecord]:
    """The reads of parameters, buffers and modules in the graph before fusing."""
    return [node for node in (record.plain or ()) if is_read(node)] if record is not None else []


def make_module(
    root: nn.Module, graph: fx.Graph, meta: dict[str, Any], training: bool, like: nn.Module | None = None,
    as_it_was: bool = False,
) -> CompiledGNN:  # fmt: skip
    """Make a CompiledGNN with all that the graph reads of ``root``; buffers missing in its state_dict stay so.

    Its mode is ``training``; its parts have the modes that they have in ``like``, by default in ``root``.
    ``as_it_was`` takes the modules of ``root`` themselves, with all that was added to them, such as hooks and masks.
    """
    module = _made_of(root, graph, meta, as_it_was)
    record: GraphRecord | None = meta.get(RECORD)
    # Set directly: FX makes modules in train mode, and layers keep their own mode.
    copy_modes(module, like or root, record.stays_in_eval if record is not None else lambda path: "")
    module.__dict__["training"] = training and not (record is not None and record.stays_in_eval(""))
    return module


def over_same_parameters(gm: CompiledGNN, graph: fx.Graph) -> CompiledGNN:
    """Make a module of another graph that shares the parameters, buffers and modules of ``gm``, only for analysis."""
    module = _made_of(gm, graph, gm.meta)
    copy_modes(module, gm, record_of(gm).stays_in_eval)
    return module


def _made_of(root: nn.Module, graph: fx.Graph, meta: dict[str, Any], as_it_was: bool = False) -> CompiledGNN:
    persistent = set(stored_tensors(root))
    with code_when_called():  # until its parts are in place
        module = CompiledGNN(targets_of(root, graph) if as_it_was else root, graph, "CompiledGNN")
    record: GraphRecord | None = meta.get(RECORD)  # the structure half of a graph has none of its own
    for node in _reads(record):
        if missing_target(root, [node.target]) is None:
            _carry_over(root, module, node.target)
    for path, owner in module.named_modules():
        for name, _ in owner.named_buffers(recurse=False):
            full = f"{path}.{name}" if path else name
            if full not in persistent:
                owner._non_persistent_buffers_set.add(name)
    module.meta = dict(meta)
    if record is not None:
        make_parts(module, record.parts)
        compare_states_of_parts(module, record)
        for path, after in record.after_switch.items():
            part = module.get_submodule(path) if path else None
            if isinstance(part, Part):
                part.after_switch = after
    if as_it_was:
        copy_additions(root, module)
    module.recompile()
    return module


def _carry_over(root: nn.Module, module: nn.Module, target: str) -> None:
    """Copy a submodule or tensor that only the unfused graph reads, such as a dropout that fusing removed."""
    *path, name = target.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        root, module = getattr(root, part), getattr(module, part)
    if hasattr(module, name):
        return
    value = getattr(root, name)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


def parameter_bytes(module: nn.Module) -> int:
    """Return the bytes of parameters and persistent buffers; those that modules share count once."""
    tensors = stored_tensors(module).values()
    return sum(value.numel() * value.element_size() for value in {id(value): value for value in tensors}.values())


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name: the state without what else modules put there.

    It does not ask for the state, since that of a compiled graph takes a digest of all its origins.
    """
    found: dict[str, Tensor] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        transient = getattr(owner, "_non_persistent_buffers_set", ())
        for name, value in (*owner._parameters.items(), *owner._buffers.items()):
            if value is not None and name not in transient:
                found[f"{path}.{name}" if path else name] = value
    return found


def call_by_name(model: nn.Module, inputs: ModelInputs, arguments: Mapping[str, Any], quiet: bool = False) -> Any:
    """Call a model, or its graph, with arguments by the names they have in the graph.

    ``quiet`` calls ``forward`` directly, because a GraphModule's own call prints a traceback when it fails.
    """
    if not isinstance(model, CompiledGNN):
        args, kwargs = inputs.bind(arguments)
    elif inputs.objects and inputs_of(model).objects:
        args, kwargs = [], built(inputs.objects, arguments)
    else:
        args, kwargs = [], dict(arguments)
    return (model.forward if quiet else model)(*args, **kwargs)
