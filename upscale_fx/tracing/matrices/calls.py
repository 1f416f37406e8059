"""Calls on sparse matrices, recorded as operations on their entries.

PyG's own functions on matrices are gone through as they are; what is recorded are the few operations that they and
users' code are made of. Products with dense matrices become gathers, products and sums of messages, as for an
``edge_index``, so that analyses and fused operators see no difference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch_geometric.index import ptr2index
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import scatter, softmax, spmm, to_edge_index  # replaced in PyG's own modules, not here

from upscale_fx.compiled.calls import target_name
from upscale_fx.compiled.objects.matrices import RAW
from upscale_fx.tracing.matrices.proxy import EdgesProxy, MatrixProxy, PointerProxy, pointer
from upscale_fx.tracing.proxy import ProxyTracer, is_proxy

#: PyG's functions that are never recorded as one call, although they are replaced while a model is traced.
GONE_THROUGH: tuple[Callable[..., Any], ...] = (ptr2index, to_edge_index, spmm)


def matrix_call(tracer: ProxyTracer, target: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of a call, recorded on the entries of matrices; NotImplemented if it is recorded as it is.

    Args:
        tracer: the tracer.
        target: the function, or the name of the method.
        args: positional arguments, proxies among them; a method's object first.
        kwargs: keyword arguments.
    """
    if target in MAKERS:
        return MAKERS[target](tracer, *args, **kwargs)
    if target is ptr2index and args and type(args[0]) is PointerProxy:
        return args[0].index
    if not args and not kwargs:
        return NotImplemented
    if target is operator.getitem and type(args[0]) is EdgesProxy and args[1] in (0, 1):
        return args[0].halves[args[1]]
    if args and target in ("detach", "long") and type(args[0]) in (EdgesProxy, PointerProxy):
        return args[0]
    if target in (max, min) and not kwargs:  # of the sizes of a square matrix
        sizes = args[0] if len(args) == 1 else args
        return sizes[0] if type(sizes) is tuple and all(size is sizes[0] for size in sizes) else NotImplemented
    if target is softmax:
        return without_pointer(tracer, *args, **kwargs)
    if not any(type(value) is MatrixProxy for value in _flat((args, kwargs))):
        return target(*args, **kwargs) if target in GONE_THROUGH else NotImplemented
    if target is gcn_norm:
        return normalised(tracer, *args, **kwargs)
    if target is to_edge_index:
        return _as_edges(*args, **kwargs)
    if target is spmm and (result := product(*args, **kwargs)) is not NotImplemented:
        return result
    if str(getattr(target, "__module__", "")).startswith("torch_geometric"):
        return target(*args, **kwargs)
    function = CALLS.get(target_name(target))
    return NotImplemented if function is None else function(*args, **kwargs)


def _flat(value: Any) -> Iterator[Any]:
    if type(value) in (tuple, list):
        for item in value:
            yield from _flat(item)
    elif type(value) is dict:
        yield from _flat(list(value.values()))
    else:
        yield value


# PyG's functions ---------------------------------------------------------------------------------------------------


def normalised(
    tracer: ProxyTracer,
    adj: MatrixProxy,
    edge_weight: Any = None,
    num_nodes: Any = None,
    improved: bool = False,
    add_self_loops: bool = True,
    flow: str = "source_to_target",
    dtype: Any = None,
) -> tuple[MatrixProxy, None]:
    """PyG's ``gcn_norm`` of a matrix, as that of its edges.

    Of a matrix it adds 1 to the diagonal, of edges it gives a loop only to nodes that have none. So 1 is added to the
    weights of loops first.
    """
    if adj.kind == "csc":
        raise NotImplementedError("Sparse CSC matrices are not yet supported in 'gcn_norm'")
    adj = adj.sorted_as("coo") if adj.kind == RAW else adj
    weights = adj.weights
    if add_self_loops:
        weights = torch.where(adj.row == adj.column, weights + (2.0 if improved else 1.0), weights)
    arguments = (torch.stack([adj.column, adj.row]), weights, adj.rows, improved, add_self_loops)
    result: Any = tracer.create_proxy("call_function", gcn_norm, arguments, {})
    edges, weights = result
    in_order = adj.in_order and not add_self_loops
    return MatrixProxy(tracer, edges[1], edges[0], weights, (adj.rows, adj.columns), adj.kind, in_order), None


def without_pointer(
    tracer: ProxyTracer, src: Any, index: Any = None, ptr: Any = None, num_nodes: Any = None, dim: int = 0
) -> Any:
    """PyG's ``softmax`` by rows of a matrix: they are the same whether told by an index or by where they begin."""
    if type(ptr) is not PointerProxy or index is None:
        return NotImplemented
    return tracer.create_proxy("call_function", softmax, (src, index, None, num_nodes, dim), {})


def _as_edges(adj: MatrixProxy) -> tuple[Any, Any]:
    return adj.indices(), adj.ordered().weights


# Products ----------------------------------------------------------------------------------------------------------


def product(first: Any, second: Any, reduce: str = "sum") -> Any:
    """A matrix times a dense matrix or vector, or the other way round."""
    reduce = "sum" if reduce == "add" else reduce
    if torch.strided not in (first.layout, second.layout):
        return NotImplemented  # a product of two matrices, one of which may not be known by its entries
    if type(second) is MatrixProxy:
        if reduce != "sum" or second.weights.dim() != 1 or first.dim() > 2:
            return NotImplemented
        if first.dim() == 1:
            return _product(second.transposed(), first, reduce)
        return _product(second.transposed(), first.t(), reduce).t()
    return _product(first, second, reduce)


def _product(adj: MatrixProxy, x: Any, reduce: str) -> Any:
    if adj.weights.dim() != 1 or x.dim() not in (1, 2):
        return NotImplemented
    if reduce != "sum" and adj.kind == RAW:
        adj = adj.sorted_as("csr")
    names = {"amax": "max", "amin": "min", "prod": "mul"}
    messages = x.index_select(0, adj.column)
    messages = messages * (adj.weights if x.dim() == 1 else adj.weights.view(-1, 1))
    arguments = (messages, adj.row, 0, adj.rows, names.get(reduce, reduce))
    return adj.tracer.create_proxy("call_function", scatter, arguments, {})


def sum_and_product(first: Any, adj: Any, x: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """``beta * first + alpha * adj @ x``."""
    result = product(adj, x)
    if result is NotImplemented:
        return NotImplemented
    return (first if beta == 1 else beta * first) + (result if alpha == 1 else alpha * result)


# Values ------------------------------------------------------------------------------------------------------------


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0)


def scaled(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return the rule of a product or quotient with a number."""

    def call(first: Any, second: Any) -> Any:
        if type(first) is MatrixProxy and _is_scalar(second):
            return first.like(function(first.weights, second))
        if function is operator.mul and _is_scalar(first):
            return second.like(function(first, second.weights))
        return NotImplemented

    return call


def on_values(name: str) -> Callable[..., Any]:
    """Return the rule of a method that changes dtype or device, or nothing that a graph holds."""

    def call(adj: MatrixProxy, *args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        if any(isinstance(value, torch.layout) for value in given):
            return NotImplemented
        args = tuple(value.weights if type(value) is MatrixProxy else value for value in args)
        return adj.like(getattr(adj.weights, name)(*args, **kwargs))

    return call


def total(adj: MatrixProxy, *args: Any, **kwargs: Any) -> Any:
    """The sum of all values; sums along an axis are left to torch."""
    return NotImplemented if args or kwargs else adj.weights.sum()


# Form --------------------------------------------------------------------------------------------------------------


def transposed(adj: MatrixProxy, *axes: int) -> Any:
    """``adj.t()`` and ``adj.transpose(0, 1)``."""
    return adj.transposed() if sorted(axis % 2 for axis in axes) in ([], [0, 1]) else NotImplemented


def coalesced(adj: MatrixProxy) -> MatrixProxy:
    """``adj.coalesce()``."""
    return adj.sorted_as("coo") if adj.kind == RAW else adj


def marked_coalesced(adj: MatrixProxy, mark: bool = True) -> MatrixProxy:
    """``adj._coalesced_(True)``: the entries are taken as they are."""
    return adj


def sorted_as(kind: str) -> Callable[..., Any]:
    """Return the rule of a change of layout."""

    def call(adj: MatrixProxy, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return NotImplemented
        return adj if adj.kind == kind else adj.sorted_as(kind)

    return call


#: By the name of a function or method, how it is recorded.
CALLS: dict[str, Callable[..., Any]] = {
    "matmul": product, "mm": product, "mv": product, "spmm": product, "_sparse_mm": product,
    "__matmul__": product, "addmm": sum_and_product, "_sparse_addmm": sum_and_product,
    "mul": scaled(operator.mul), "multiply": scaled(operator.mul), "div": scaled(operator.truediv),
    "truediv": scaled(operator.truediv), "neg": lambda adj: adj.like(-adj.weights), "sum": total,
    **{name: on_values(name) for name in (
        "to", "float", "double", "half", "bfloat16", "type", "type_as", "detach", "clone", "cpu", "cuda",
    )},
    "contiguous": lambda adj, **_: adj, "t": transposed, "transpose": transposed, "coalesce": coalesced,
    "_coalesced_": marked_coalesced, "is_coalesced": lambda adj: adj.kind == "coo",
    "indices": lambda adj: adj.indices(), "_indices": lambda adj: adj.indices(),
    "values": lambda adj: adj.ordered().weights, "_values": lambda adj: adj.ordered().weights,
    "crow_indices": lambda adj: adj.pointer(adj.ordered().row, adj.rows),
    "ccol_indices": lambda adj: adj.pointer(adj.ordered().column, adj.columns),
    "col_indices": lambda adj: adj.ordered().column, "row_indices": lambda adj: adj.ordered().row,
    "_nnz": lambda adj: adj.row.size(0),
    "to_sparse_csr": sorted_as("csr"), "to_sparse_csc": sorted_as("csc"), "to_sparse_coo": sorted_as("coo"),
    "to_sparse": sorted_as("coo"),
}  # fmt: skip


# Matrices that forward() makes ---------------------------------------------------------------------------------------


def _made_of_pointer(kind: str) -> Callable[..., Any]:
    first, second = ("crow_indices", "col_indices") if kind == "csr" else ("ccol_indices", "row_indices")

    def make(tracer: ProxyTracer, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip((first, second, "values", "size"), args, strict=False)), **kwargs}
        start, values, size = given.get(first), given.get("values"), given.get("size")
        if type(start) is not PointerProxy or not is_proxy(given.get(second)) or not is_proxy(values) or size is None:
            return NotImplemented
        along = (start.index, given[second])
        row, column = along if kind == "csr" else along[::-1]
        return MatrixProxy(tracer, row, column, values, (size[0], size[1]), kind)

    return make


def _made_of_indices(tracer: ProxyTracer, *args: Any, **kwargs: Any) -> Any:
    given: dict[str, Any] = {**dict(zip(("indices", "values", "size"), args, strict=False)), **kwargs}
    indices, values, size = (given.get(name) for name in ("indices", "values", "size"))
    if not is_proxy(indices) or not is_proxy(values) or indices is None or values is None or size is None:
        return NotImplemented
    if len(size) != values.dim() + 1:
        return NotImplemented
    if indices.size(0) != 2 or given.get("dtype") is not None or given.get("requires_grad"):
        return NotImplemented
    kind = "coo" if given.get("is_coalesced") else RAW
    return MatrixProxy(tracer, indices[0], indices[1], values, (size[0], size[1]), kind)


def _pointer(tracer: ProxyTracer, index: Any, size: Any, **_: Any) -> Any:
    return pointer(tracer, index, size) if is_proxy(index) else NotImplemented


MAKERS: dict[Any, Callable[..., Any]] = {
    torch.sparse_csr_tensor: _made_of_pointer("csr"), torch.sparse_csc_tensor: _made_of_pointer("csc"),
    torch.sparse_coo_tensor: _made_of_indices, torch._convert_indices_from_coo_to_csr: _pointer,
}  # fmt: skip
