"""Find out which types of nodes and edges a batch may lack: what the model does then is compared with the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import fx

from upscale_fx.compiled.comparison import largest_difference
from upscale_fx.compiled.inputs import OTHER, SMALL, ModelInputs
from upscale_fx.compiled.missing_types import Missing, text_of, typed_entries, without_types
from upscale_fx.compiled.module import CompiledGNN, inputs_of, note, record_of
from upscale_fx.compiled.objects.calls import graph_without_types, run_graph
from upscale_fx.compiled.objects.results import tensors_of
from upscale_fx.compiled.undisturbed import in_mode, undisturbed

#: Calls the model, or runs a graph, with arguments by name.
Run = Callable[[Mapping[str, Any]], Any]
#: The most combinations of missing types that are tried.
_MOST = 40


def takes_any_order(inputs: ModelInputs, model: Run) -> bool:
    """Whether the model does the same for dictionaries whose types are in another order."""
    if not any(isinstance(spec, dict) and len(spec) > 1 for spec in inputs.arguments.values()):
        return True
    example = inputs.example(OTHER)
    turned = {name: dict(reversed(v.items())) if isinstance(v, dict) else v for name, v in example.items()}
    try:
        return by_key(model(example), model(turned))
    except Exception:  # it refuses the example, or another order
        return False


def by_key(expected: Any, actual: Any) -> bool:
    """Whether two results agree; dictionaries may have their keys in another order."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(by_key(expected[key], actual[key]) for key in expected)
    leaves = [leaf for leaf in tensors_of(expected) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    exact = all(leaf.dtype == torch.float64 for leaf in leaves)
    return largest_difference(expected, actual) <= (1e-10 if exact else 1e-4)


def lacking_types(
    inputs: ModelInputs, graph: fx.Graph, model: Run, run: Callable[[fx.Graph], Run]
) -> dict[Missing, str]:
    """Return combinations of types that a batch may lack, each with the reason why not; empty if it may.

    Args:
        inputs: the arguments.
        graph: the trace.
        model: calls the model.
        run: runs a graph in place of the trace.
    """
    found: dict[Missing, str] = {}
    entries = frozenset(typed_entries(graph).values())
    for whole in _combinations(inputs):
        missing = whole & entries
        if missing and missing != entries and missing not in found:
            found[missing] = _refusal(inputs, graph, whole, missing, model, run)
        if len(found) >= _MOST:
            break
    return found


def _refusal(
    inputs: ModelInputs, graph: fx.Graph, whole: Missing, missing: Missing, model: Run, run: Callable[[fx.Graph], Run]
) -> str:
    """Why a batch cannot lack ``whole``, of which the graph reads ``missing``; empty if it can."""
    what, short = text_of(missing), without_types(graph, missing)
    for rows in (SMALL, OTHER):
        example = lacking(inputs.example(rows, seed=5), whole)
        try:
            expected = model(example)
        except Exception as error:
            return f"a batch without {what} is refused by the model itself ({type(error).__name__}: {error})"
        try:
            agree = short is not None and by_key(expected, run(short)(example))
        except Exception:
            agree = False
        if not agree:
            return (
                f"this graph cannot be called without {what}: what the model does then is not the graph without it; "
                f"trace again with an example that lacks it"
            )
    return ""


def recheck_types(before: CompiledGNN, after: CompiledGNN) -> None:
    """Refuse in ``after`` the batches for which it differs from the graph it was made from."""
    allowed = [missing for missing, reason in record_of(before).lacking.items() if not reason]
    if not allowed:
        return
    changed = dict(record_of(after).lacking)
    for missing in allowed:
        example = lacking(inputs_of(before).example(OTHER, seed=5), missing)
        with in_mode(before, training=False), in_mode(after, training=False), torch.no_grad(), undisturbed(before):
            first, second = graph_without_types(before, missing), graph_without_types(after, missing)
            try:
                assert first is not None
                agree = second is not None and by_key(
                    run_graph(before, first, example), run_graph(after, second, example)
                )
            except Exception:
                agree = False
        if not agree:
            changed[missing] = (
                f"this graph cannot be called without {text_of(missing)}, because pruning made use of it; compile "
                f"again with an example that lacks it"
            )
    note(after, lacking=changed)


def lacking(arguments: Mapping[str, Any], missing: Missing) -> dict[str, Any]:
    """Return arguments without some entries of their dictionaries."""

    def shorter(name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if (name, key) not in missing}

    return {name: shorter(name, value) for name, value in arguments.items()}


def _combinations(inputs: ModelInputs) -> Iterator[Missing]:
    """Yield sets of entries: each edge type, each node type with all its edges, and then several of these."""
    entries = [(name, key) for name, spec in inputs.all_arguments().items() if isinstance(spec, dict) for key in spec]
    kinds = sorted(dict.fromkeys(key for _, key in entries), key=lambda key: not isinstance(key, tuple))
    events = [frozenset(entry for entry in entries if _lacks(kind, entry[1])) for kind in kinds]
    for count in range(1, len(events) + 1):
        for several in combinations(events, count):
            yield frozenset[tuple[str, Any]]().union(*several)


def _lacks(kind: Any, key: Any) -> bool:
    """Whether a batch without a type has no entry of this key: of that type, or of edges at its nodes."""
    return bool(key == kind) or (isinstance(key, tuple) and kind in (key[0], key[-1]))
