"""A network made ready for reading: what training keeps apart and reading need not is multiplied out beforehand."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hangul_ocr.models.checkpoint import load_model
from hangul_ocr.models.classifier import CompositionalClassifier
from hangul_ocr.models.recognizer import Recognizer

#: Pixels of the crop, plain noise, by which the folds are found and checked.
_PROBE = (32, 128)
_TOLERANCE = 1e-3  # of the largest feature


def load_for_reading(path: Path) -> Recognizer:
    """Return the recogniser of a file by ``save_model``, folded."""
    return folded(load_model(path))


def folded(model: Recognizer) -> Recognizer:
    """Return a copy of ``model``, in evaluation mode, that reads the same but for rounding, in less time.

    Batch norms lie in the convolutions before them, and jamo are summed to syllables once instead of for each batch. It
    is no longer a network of its settings: it cannot be trained or saved.
    """
    ready = copy.deepcopy(model).eval()
    ready.backbone = _without_norms(ready.backbone, 1 if model.settings.grey else 3)
    for module in list(ready.modules()):
        for name, child in module.named_children():
            if isinstance(child, CompositionalClassifier):
                setattr(module, name, child.as_linear())
    for module in ready.modules():
        if isinstance(module, nn.Conv2d):  # in the order of the crops, or PyTorch copies each kernel for each batch
            module.to(memory_format=torch.channels_last)
    return ready


@torch.no_grad()
def _without_norms(network: nn.Module, channels: int) -> nn.Module:
    """Return ``network`` with its norms folded away; as it was where that would change what it gives."""
    device = next(network.parameters()).device
    probe = torch.randn(1, channels, *_PROBE, generator=torch.Generator().manual_seed(0)).to(device)
    lighter = copy.deepcopy(network)
    for convolution, norm in _norms_after(lighter, probe):
        _fold(lighter, convolution, norm)
    before, after = network(probe), lighter(probe)
    same = (before - after).abs().max() <= _TOLERANCE * before.abs().max()
    return lighter if same else network  # a convolution may have other readers than its norm


def _fold(network: nn.Module, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    fused = fuse_conv_bn_eval(convolution, norm)
    # In place: the convolution keeps its hooks, and whoever changes its stride finds it.
    convolution.weight, convolution.bias = fused.weight, fused.bias
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, _after_norm(norm))


def _after_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what is left of a norm that is folded: timm's may have an activation inside."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _norms_after(network: nn.Module, probe: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return each batch norm that takes what one convolution gives, and that convolution, found by running once."""
    # Tensors are kept, so that none gets the id of one that is gone.
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    inputs: list[tuple[Tensor, nn.BatchNorm2d]] = []
    # Exact types: convolutions and norms of other kinds do more than their product.
    hooks = [
        module.register_forward_hook(lambda m, given, made: outputs.append((made, m)))
        for module in network.modules()
        if type(module) is nn.Conv2d
    ]
    hooks += [
        module.register_forward_pre_hook(lambda m, given: inputs.append((given[0], m)))
        for module in network.modules()
        if type(module) in (nn.BatchNorm2d, BatchNormAct2d)
    ]
    network(probe)
    for hook in hooks:
        hook.remove()
    runs = Counter(module for _, module in [*outputs, *inputs])  # one that runs twice serves two places
    made_by = {id(made): module for made, module in outputs if runs[module] == 1}
    return [(made_by[id(given)], norm) for given, norm in inputs if id(given) in made_by and runs[norm] == 1]
