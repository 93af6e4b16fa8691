"""A network as it is run: BatchNorm folded into convolutions, dropout gone, ReLU fused on the CPU.

The folded network gives the answers of the one it was made from to floating-point error (tested), in fewer passes over
memory. On the CPU every convolution is oneDNN's, whatever its size: torch alone chooses by a tile's size and the number
of threads between that and a matrix product, and the two differ in the last bits.
"""

import copy
import functools
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unet.trimming import takes_frame

_EVEN_CHANNELS = 8
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_UNTRACEABLE = (fx.proxy.TraceError, TypeError, ValueError, NameError)  # numpy on shapes, modules made while running


class FusedConvolution(nn.Module):
    """A convolution and the activation after it in one pass: `none`, `relu` or `hardtanh` (ReLU6) of oneDNN.

    In bfloat16 channels are filled up with zeros to a multiple of eight: with others (3, 6, 12) oneDNN adds in an order
    that depends on the tile's size, where the processor has AMX.
    """

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, activation: nn.Module | None) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        self.kind, self.limits = "none" if activation is None else "relu", []
        if isinstance(activation, nn.ReLU6):
            self.kind, self.limits = "hardtanh", [0.0, 6.0]

    def forward(self, x: Tensor) -> Tensor:
        layer = self.convolution
        weight = layer.weight
        missing = -layer.in_channels % _EVEN_CHANNELS if layer.groups == 1 and weight.dtype == torch.bfloat16 else 0
        if missing:
            zeros = (*(0, 0) * len(layer.kernel_size), 0, missing)
            x, weight = functional.pad(x, zeros), functional.pad(weight, zeros)
        where = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, layer.bias, *where, self.kind, self.limits, "")
        return y


class Transposed(nn.Module):
    """A transposed convolution by oneDNN, whatever its size: of a single pixel torch makes a matrix product."""

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        layer = self.convolution
        where = (
            list(layer.padding),
            list(layer.output_padding),
            list(layer.stride),
            list(layer.dilation),
            layer.groups,
        )
        y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            x, layer.weight, layer.bias, *where, "none", [], ""
        )
        return y


class SummedConvolution(FusedConvolution):
    """The same of several tensors side by side along the channels, without laying them there: skips of a U-Net.

    Each part's convolution is added to that of those before it, in the memory of the first. What this spares is a copy
    of all parts, the largest block that a network needs. In bfloat16 the sums between would be rounded, so there they
    are laid out. Activations are `none` and `relu`: oneDNN has no other after a sum.
    """

    activations = ("none", "relu")

    def forward(self, *parts: Tensor) -> Tensor:
        layer = self.convolution
        if layer.weight.dtype != torch.float32:
            return super().forward(torch.cat(parts, dim=1))
        where = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        weights = torch.split(layer.weight, [part.shape[1] for part in parts], dim=1)
        first, *between, last = zip(parts, weights, strict=True)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(*first, layer.bias, *where, "none", [], "")
        add = torch.ops.mkldnn._convolution_pointwise_.binary
        for part, weight in between:
            add(y, part, weight, None, *where, "add", 1.0, None, [], "")
        add(y, *last, None, *where, "add", 1.0, "relu" if self.kind == "relu" else None, [], "")
        return y


@functools.cache
def can_fuse() -> bool:
    """Whether this torch has oneDNN's fused convolution for the CPU."""
    one, two = (nn.Conv2d(inputs, 1, 1) for inputs in (1, 2))
    values = torch.zeros(1, 1, 2, 2)
    try:
        with torch.inference_mode():
            FusedConvolution(one, nn.ReLU())(values)
            SummedConvolution(two, nn.ReLU())(values, values)
            Transposed(nn.ConvTranspose2d(1, 1, 2, stride=2))(values)
    except (AttributeError, RuntimeError):
        return False
    return True


def processor_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AVX512-BF16, AMX); older versions of torch do not say."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _replace(graph: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let one node call a module of its own, even where others call the same one."""
    name = f"folded_{node.name}"
    graph.add_module(name, module)
    node.target = name


def _drop(node: fx.Node) -> None:
    """Take a node out: what came in goes on to whoever asked for what came out."""
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    node.graph.erase_node(node)


def _module(graph: fx.GraphModule, node: object) -> nn.Module | None:
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph.get_submodule(str(node.target))
    return None


def _fold_norms(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        layer = _module(graph, node)
        if isinstance(layer, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            _drop(node)
        elif isinstance(layer, _NORMS) and layer.track_running_stats:
            before = node.args[0]
            convolution = _module(graph, before)
            if isinstance(convolution, _CONVOLUTIONS) and len(before.users) == 1:
                _replace(graph, before, fuse_conv_bn_eval(convolution, layer))
                _drop(node)


def _fuse_activations(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        layer = _module(graph, node)
        if not isinstance(layer, _CONVOLUTIONS) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            continue
        following = next(iter(node.users)) if len(node.users) == 1 else None
        activation = _module(graph, following)
        known = isinstance(activation, nn.ReLU | nn.ReLU6)
        _replace(graph, node, FusedConvolution(layer, activation if known else None))
        if known and following is not None:
            _drop(following)


def _fuse_transposed(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        layer = _module(graph, node)
        if isinstance(layer, nn.ConvTranspose2d) and len(node.args) == 1 and not node.kwargs:
            _replace(graph, node, Transposed(layer))


def _sum_parts(graph: fx.GraphModule) -> None:
    """Let a convolution of what is put side by side for it alone take the parts instead."""
    for node in list(graph.graph.nodes):
        layer = _module(graph, node)
        if not isinstance(layer, FusedConvolution) or layer.convolution.groups != 1:
            continue
        joined = node.args[0]
        if layer.kind not in SummedConvolution.activations or not _joins_channels(joined) or len(joined.users) > 1:
            continue
        _replace(graph, node, SummedConvolution(layer.convolution, layer.activation))
        node.args = tuple(joined.args[0])
        graph.graph.erase_node(joined)


def _joins_channels(node: object) -> bool:
    """Whether a node is `torch.cat` of two tensors or more along the channels, written as networks here write it."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.target is not torch.cat:
        return False
    along = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return along in (1,) and isinstance(node.args[0], list | tuple) and len(node.args[0]) > 1


class _Tracer(fx.Tracer):
    """Takes every convolution whole, those that are not torch's own classes too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _CONVOLUTIONS) or super().is_leaf_module(m, module_qualified_name)


def fold(network: nn.Module, *, fuse: bool, framed: bool = False) -> nn.Module:
    """A copy to evaluate with; the network itself stays as it is. `framed` lets it be called with a frame, and only so.

    `fuse` also joins convolutions with the ReLU after them, by an operator that only the CPU has; it is left out where
    torch lacks it. A network that cannot be traced (it branches on values, shapes or types) is copied as it is.
    """
    own = copy.deepcopy(network).eval()
    try:
        graph = fx.GraphModule(own, _Tracer().trace(own, None if framed or not takes_frame(own) else {"frame": None}))
    except _UNTRACEABLE:
        return own
    _fold_norms(graph)
    if fuse and can_fuse():
        _fuse_activations(graph)
        _fuse_transposed(graph)
        _sum_parts(graph)
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph.eval() if _same_answer(graph, own, (torch.zeros(4, dtype=torch.int64),) if framed else ()) else own


def _same_answer(graph: nn.Module, network: nn.Module, frame: tuple[Tensor, ...]) -> bool:
    """Whether a traced network does what it was made from: tracing takes one branch of an `if` on types silently."""
    first = next((layer for layer in network.modules() if isinstance(layer, _CONVOLUTIONS)), None)
    if first is None:
        return True
    stride = getattr(network, "stride", 16)
    side = 4 * (max(stride) if isinstance(stride, tuple) else int(stride))
    image = torch.rand((1, first.in_channels, *[side] * len(first.kernel_size)), generator=torch.Generator())
    image = image.to(first.weight)
    with torch.inference_mode():
        wanted = network(image, *frame)
        try:
            found = graph(image, *frame)
        except RuntimeError:
            return False
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))
