"""Modes of parts, and blocks that take no gradients."""

from tests.random_models.build import channelled, flat, op


@op(channelled, weight=3)
def dropping(b, v, shape):
    """Dropout in a layer, or in the root itself."""
    width = b.width()
    b.emit(*b.choose([
        (f"{b.part(f'Dropping({shape[-1]}, {width})')}({v})", (*shape[:-1], width)),
        (f"F.dropout({v}, 0.5, self.training)", shape),
        (f"{b.part('nn.Dropout(0.5)')}({v}).relu()", shape),
    ]))  # fmt: skip


@op(flat, weight=4)
def without_gradients(b, v, shape):
    """A layer whose result takes no gradients, in each of the ways to say so."""
    width = b.width()
    layer = b.linear(shape[1], width)
    k = len(b.lines)
    block = b.choose(["torch.no_grad()", "torch.inference_mode()", "torch.set_grad_enabled(False)", ""])
    if not block:
        b.emit(b.choose([f"{layer}({v}).detach()", f"{layer}({v}).data.relu()"]), (shape[0], width))
        return
    b.lines.append(f"with {block}:")
    b.lines.append(f"    g{k} = {layer}({v})")
    b.lines.append(b.choose([
        f"    g{k} = g{k}.relu()", f"    g{k} += 1", f"g{k} = g{k}.clone()",
        f"    with torch.enable_grad(): g{k} = g{k} + {layer}({v})",
    ]))  # fmt: skip
    b.emit(f"g{k}.clone()", (shape[0], width))
