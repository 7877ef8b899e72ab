"""Normalization and regularization layers."""

from __future__ import annotations

import torch
from torch import fx, nn

from backend.catalogue.record import Shape
from backend.layers.emitter import Builder, Emitter, Site

BATCH: dict[int, type[nn.Module]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm1d,
    3: nn.BatchNorm2d,
    4: nn.BatchNorm3d,
}
INSTANCE: dict[int, type[nn.Module]] = {2: nn.InstanceNorm1d, 3: nn.InstanceNorm2d, 4: nn.InstanceNorm3d}
CHANNEL_DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}


class StochasticDepth(nn.Module):
    """Sets random samples of a batch to zero while training, and scales up the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0], *(1,) * (x.ndim - 1))).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def _batch(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    layer = BATCH[len(site.shape)](
        site.shape[0], eps=site["epsilon"], momentum=site["momentum"], affine=site["affine"]
    )
    return emit.module(site.name, layer, *inputs)


def _trailing(site: Site) -> Shape:
    return site.shape[len(site.shape) - site["axes"] :]


def _layer(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    layer = nn.LayerNorm(_trailing(site), eps=site["epsilon"], elementwise_affine=site["affine"])
    return emit.module(site.name, layer, *inputs)


def _rms(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    layer = nn.RMSNorm(_trailing(site), eps=site["epsilon"], elementwise_affine=site["affine"])
    return emit.module(site.name, layer, *inputs)


def _group(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    layer = nn.GroupNorm(site["groups"], site.shape[0], eps=site["epsilon"], affine=site["affine"])
    return emit.module(site.name, layer, *inputs)


def _instance(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    layer = INSTANCE[len(site.shape)](site.shape[0], eps=site["epsilon"], affine=site["affine"])
    return emit.module(site.name, layer, *inputs)


def _dropout(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.module(site.name, nn.Dropout(site["rate"]), *inputs)


def _spatial_dropout(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.module(site.name, CHANNEL_DROPOUT[len(site.shape)](site["rate"]), *inputs)


def _stochastic_depth(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.module(site.name, StochasticDepth(site["rate"]), *inputs)


BUILDERS: dict[str, Builder] = {
    "BatchNorm": _batch,
    "LayerNorm": _layer,
    "RMSNorm": _rms,
    "GroupNorm": _group,
    "InstanceNorm": _instance,
    "Dropout": _dropout,
    "SpatialDropout": _spatial_dropout,
    "StochasticDepth": _stochastic_depth,
}
