"""The optimisers, by the settings, and what they keep: AdamW, or timm's Muon."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, muon

from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import TrainingSettings

_newton_schulz = muon.zeropower_via_newtonschulz


def make_optimizer(model: Recognizer, settings: TrainingSettings, device: str, precision: str) -> torch.optim.Optimizer:
    """Return AdamW, or timm's Muon for all matrices but the decoder's (Jordan et al., 2024) with AdamW for the rest.

    ``precision`` is the accelerator's, ``bf16`` where bfloat16 is fast.
    """
    groups = _parameter_groups(model, settings)
    if settings.optimizer == "adamw":
        # Fused on a GPU alone: on a CPU it is not bit for bit the same after a resume.
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=device == "cuda")
    decoder = {id(p) for p in model.decoder.parameters()}
    split = []
    for group in groups:
        for use_fallback in (False, True):
            params = [p for p in group["params"] if (id(p) in decoder or p.dim() < 2) == use_fallback]
            split += [group | {"params": params, "use_fallback": use_fallback}] if params else []
    _orthogonalise_in(torch.bfloat16 if precision == "bf16" else torch.float32)
    return create_optimizer_v2(split, settings.optimizer, lr=settings.learning_rate, weight_decay=0.0)


def _orthogonalise_in(number_type: torch.dtype) -> None:
    """Let Muon's Newton-Schulz steps run in ``number_type``: timm always takes bfloat16 and offers no choice.

    Where a processor has no instructions for bfloat16, PyTorch emulates it and a training step takes ten times as long.
    """
    muon.zeropower_via_newtonschulz = partial(_newton_schulz, dtype=number_type)


def _parameter_groups(model: Recognizer, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Weight decay is for matrices and kernels alone; the pixels' side may learn at rates of its own."""
    pixels_side = [p for part in (model.rectifier, model.backbone) for p in part.parameters()]
    layers_after = _layers_after(model) if settings.layer_decay < 1 else {id(p): 0 for p in pixels_side}
    groups: dict[tuple[bool, int | None], dict[str, Any]] = {}
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        matrix, after = parameter.dim() > 1, layers_after.get(id(parameter))
        share = 1.0 if after is None else settings.backbone_rate * settings.layer_decay**after
        empty = {"params": [], "weight_decay": settings.weight_decay if matrix else 0.0, "share_of_rate": share}
        groups.setdefault((matrix, after), empty)["params"].append(parameter)
    return list(groups.values())


def _layers_after(model: Recognizer) -> dict[int, int]:
    """Return for each parameter of rectifier and backbone, by its id, how many of the backbone's layers follow its own.

    What reduces the backbone's map to a sequence goes with the last layer, the rectifier with the first.
    """
    layer_of = model.backbone.layer_numbers()
    last = max(layer_of.values())
    after = {id(parameter): last for parameter in model.rectifier.parameters()}
    named = model.backbone.named_parameters()
    return after | {id(parameter): last - layer_of.get(name, last) for name, parameter in named}


def optimizer_tensors(optimizer: Any) -> dict[str, torch.Tensor]:
    """Return what ``optimizer`` keeps for each parameter, by the parameter's number and the name."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, s in state.items() for name, value in s.items()}


def parameter_names(model: Recognizer, optimizer: Any) -> list[str]:
    """Return the names of the parameters that ``optimizer`` trains, by their numbers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def same_parameters(names: list[str], kept: list[str] | None, tensors: dict[str, torch.Tensor]) -> bool:
    """Tell whether ``tensors``, kept for the parameters ``kept``, are those of the parameters ``names``.

    Older versions kept no names, and trained parameters that never got a gradient: their numbers have gaps.
    """
    if kept is not None:
        return kept == names
    return {int(key.split(".", 1)[0]) for key in tensors} in (set(), set(range(len(names))))


def load_optimizer(optimizer: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` returned."""
    plain = optimizer.state_dict()
    plain["state"] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        plain["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(plain)
