"""Recurrent layers, as torch has them."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem

import torch
from torch import fx, nn

from backend.layers.emitter import Builder, Emitter, Site

LAYERS: dict[str, Callable[..., nn.Module]] = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def _recurrent(name: str) -> Builder:
    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        extra = {"nonlinearity": site["nonlinearity"]} if name == "RNN" else {}
        layer = LAYERS[name](
            site.shape[-1],
            site["units"],
            site["layers"],
            bias=site["bias"],
            batch_first=True,
            dropout=site["dropout"],
            **extra,
        )
        states = emit.call(getitem, emit.module(site.name, layer, *inputs), 0)
        return states if site["sequences"] else emit.call(torch.select, states, 1, -1)

    return build


BUILDERS: dict[str, Builder] = {name: _recurrent(name) for name in LAYERS}
