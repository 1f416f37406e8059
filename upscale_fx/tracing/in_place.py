"""In-place changes in a trace: the proxy of the changed tensor stands for the result from then on."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

from upscale_fx.compiled import functions
from upscale_fx.tracing.contexts import Gradients
from upscale_fx.tracing.mutation import selected_rows, shares_storage
from upscale_fx.tracing.proxy import CannotTrace, ExampleProxy, ProxyTracer, is_proxy


class InPlaceTracer(ProxyTracer):
    """Records in-place changes as pure operations, and refuses those that others would see.

    Attributes:
        observed: buffers that calls change and no output depends on.
        gradients: whether forward() records gradients at this moment.
    """

    def __init__(self, observed: Collection[str] = ()) -> None:
        super().__init__()
        self.observed = observed
        self.gradients = Gradients()
        self._live: list[weakref.ref[ExampleProxy]] = []

    def assign(self, proxy: Any, result: Any) -> Any:
        """Make ``proxy`` stand for ``result`` from now on, as an in-place operation does."""
        if not is_proxy(proxy):
            raise CannotTrace("an in-place operation changes a tensor that is not part of the graph")
        if proxy.node.op == "get_attr" and not proxy.observed:
            raise CannotTrace(f"'{proxy.node.target}' is changed in place during forward()")
        if proxy.node.op == "placeholder":
            raise CannotTrace(_of_input(proxy.node.target))
        if not proxy.observed:  # on those that are, no output and no gradient depends
            self.gradients.check_change(proxy)
        base, key = proxy.view_of or (None, None)
        aliases = [other for other in self._aliases(proxy) if other is not result]
        aliases = [other for other in aliases if base is None or other.node is not base.node]
        if any(other.node.op == "placeholder" for other in aliases):
            given = next(other.node.target for other in aliases if other.node.op == "placeholder")
            raise CannotTrace(_of_input(given, by_view=True))
        if aliases:
            raise CannotTrace(
                "an in-place operation changes a tensor of which another view is still in use; change a copy of it, "
                "made with .clone(), or make a new tensor (torch.where)"
            )
        proxy.node, proxy.pair, proxy.frozen = result.node, result.pair, result.frozen
        if base is not None:  # x[0] += 1 changes x
            proxy.view_of = None
            self.assign_item(base, key, result)
        return proxy

    def _aliases(self, proxy: ExampleProxy) -> list[ExampleProxy]:
        """The values in use that lie in the memory of this one, as views of one tensor do."""
        if not proxy.pair[0].numel():
            return []
        live = [other for reference in self._live if (other := reference()) is not None]
        others = [other for other in live if other is not proxy and other.node is not proxy.node]
        return [other for other in others if shares_storage(other.pair[0], proxy.pair[0])]

    def assign_item(self, proxy: ExampleProxy, key: Any, value: Any) -> None:
        """Record ``x[key] = value`` as a pure operation."""
        self.assign(
            proxy, self.create_proxy("call_function", functions.set_item, (proxy, selected_rows(key), value), {})
        )


def _of_input(name: object, by_view: bool = False) -> str:
    changed = f"'{name}', of which this tensor is a view, is" if by_view else f"'{name}' is"
    return (
        f"the input {changed} changed in place, and so is the caller's tensor; change a copy of it, {name}.clone(), or "
        f"make a new tensor (torch.where)"
    )
