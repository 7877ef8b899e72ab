"""Dense, convolution and pooling layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from backend.layers.emitter import Builder, Emitter, Site

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
ADAPTIVE: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _dense(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.module(site.name, nn.Linear(site.shape[-1], site["units"], bias=site["bias"]), *inputs)


def _geometry(site: Site) -> dict[str, Any]:
    found = {name: site[name] for name in ("kernel_size", "stride", "padding", "dilation")}
    if found["padding"] == "same":
        # In numbers where both sides get as much: torch then need not work it out in every call.
        reach = [d * (k - 1) for d, k in zip(found["dilation"], found["kernel_size"], strict=True)]
        if not any(extent % 2 for extent in reach):
            found["padding"] = tuple(extent // 2 for extent in reach)
    return found


def _convolution(axes: int) -> Builder:
    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        layer = CONVOLUTIONS[axes](
            site.shape[0], site["filters"], groups=site["groups"], bias=site["bias"], **_geometry(site)
        )
        return emit.module(site.name, layer, *inputs)

    return build


def _depthwise(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    channels = site.shape[0]
    layer = nn.Conv2d(
        channels, channels * site["multiplier"], groups=channels, bias=site["bias"], **_geometry(site)
    )
    return emit.module(site.name, layer, *inputs)


def _separable(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    channels = site.shape[0]
    each = nn.Conv2d(channels, channels, groups=channels, bias=False, **_geometry(site))
    mix = nn.Conv2d(channels, site["filters"], 1, bias=site["bias"])
    return emit.module(f"{site.name}.pointwise", mix, emit.module(f"{site.name}.depthwise", each, *inputs))


def _transposed(axes: int) -> Builder:
    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        layer = TRANSPOSED[axes](
            site.shape[0],
            site["filters"],
            output_padding=site["output_padding"],
            bias=site["bias"],
            **_geometry(site),
        )
        return emit.module(site.name, layer, *inputs)

    return build


def _window(function: Callable[..., torch.Tensor]) -> Builder:
    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        stride = site["stride"] or site["kernel_size"]
        return emit.call(function, *inputs, site["kernel_size"], stride, site["padding"])

    return build


def _global_max(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.call(torch.amax, *inputs, tuple(range(2, len(site.shape) + 1)))


def _global_mean(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.call(torch.mean, *inputs, tuple(range(2, len(site.shape) + 1)))


def _adaptive(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.call(ADAPTIVE[len(site.shape) - 1], *inputs, site["output_size"])


def _upsample(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    mode = LINEAR_MODES[len(site.shape) - 1] if site["mode"] == "linear" else "nearest"
    return emit.call(functional.interpolate, *inputs, scale_factor=site["factor"], mode=mode)


BUILDERS: dict[str, Builder] = {
    "Dense": _dense,
    "Conv1D": _convolution(1),
    "Conv2D": _convolution(2),
    "Conv3D": _convolution(3),
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "ConvTranspose1D": _transposed(1),
    "ConvTranspose2D": _transposed(2),
    "MaxPool1D": _window(torch.max_pool1d),
    "MaxPool2D": _window(torch.max_pool2d),
    "AvgPool2D": _window(functional.avg_pool2d),
    "GlobalMaxPool": _global_max,
    "GlobalAvgPool": _global_mean,
    "AdaptiveAvgPool": _adaptive,
    "Upsample": _upsample,
}
