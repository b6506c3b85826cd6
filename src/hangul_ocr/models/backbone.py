"""Any timm backbone as a feature extractor for a line of text, in either reading direction.

A classification network halves both axes five times; a line of text must keep its positions along the reading
direction. So every module with a stride keeps it across the text until ``across_stride`` is reached and along the text
only until ``along_stride``. Kernels keep their shapes, so pretrained weights still load. For text that runs down, the
two strides of each module change places: the same kernels see upright syllables, and no crop is turned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn

from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.settings import require_backbone

PROBE = 128
_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class _Strided:
    module: nn.Module
    along: int
    across: int


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _stride(module: nn.Module) -> tuple[int, int]:
    return _pair(module.stride if module.stride is not None else module.kernel_size)


class Backbone(nn.Module):
    """A timm network that maps crops (N, C, H, W) to a feature sequence (N, T, D) along the reading direction.

    T is the long side divided by ``along_stride``. What is left of the other axis is averaged with learned weights
    (a softmax over positions). Raises ``HangulOcrError`` for a name that timm does not know, for weights that cannot be
    fetched and for an architecture that does not give such a map.
    """

    @torch.inference_mode(False)  # a network may be loaded in inference, and a probe below asks for gradients
    def __init__(
        self,
        name: str,
        *,
        channels: int = 3,
        along_stride: int = 8,
        across_stride: int = 32,
        stem_pool: bool = True,
        pretrained: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = _create(name, channels, pretrained, arguments or {})
        if not stem_pool:
            _leave_out_stem_pool(name, self.network)
        self._strided = _limit_strides(name, self.network, channels, along_stride, across_stride)
        self.along_stride = along_stride
        self.width = _feature_width(name, self, channels, along_stride)
        _freeze_unused(self.network, channels)
        self.position_score = nn.Conv2d(self.width, 1, 1)

    def feature_map(self, images: Tensor) -> Tensor:
        """Return (N, D, A, T): the long side last, whichever way the text runs. ``images`` is (N, C, H, W)."""
        down = images.shape[2] > images.shape[3]
        with self._direction(down):
            features = _features(self.network, images)
        return features.transpose(2, 3) if down else features

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, T, D) for ``images`` (N, C, H, W)."""
        features = self.feature_map(images)
        weights = self.position_score(features).softmax(dim=2)
        return (features * weights).sum(dim=2).transpose(1, 2)

    def layer_numbers(self) -> dict[str, int]:
        """Return for the parameters of timm's network, by name, which of its layers they are in, 0 being the first."""
        if hasattr(self.network, "group_matcher"):
            found = group_parameters(self.network, self.network.group_matcher(coarse=False), reverse=True)
        else:  # some families tell nothing of their layers
            children = [name for name, _ in self.network.named_children()]
            found = {name: children.index(name.split(".")[0]) for name, _ in self.network.named_parameters()}
        return {f"network.{name}": layer for name, layer in found.items()}

    @contextmanager
    def _direction(self, down: bool) -> Iterator[None]:
        for entry in self._strided:
            entry.module.stride = (entry.along, entry.across) if down else (entry.across, entry.along)
        yield


def _create(name: str, channels: int, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    require_backbone(name)
    wanted = {"pretrained": pretrained, "in_chans": channels, "num_classes": 0}
    try:
        try:
            return timm.create_model(name, global_pool="", **wanted, **arguments)
        except AssertionError:  # some insist on their pooling; the features come before it
            return timm.create_model(name, **wanted, **arguments)
    except Exception as error:  # timm's own, or any of a broken connection's
        raise HangulOcrError(f"backbone {name!r} cannot be made ({_reason(error)}); {_remedy(pretrained)}") from None


def _remedy(pretrained: bool) -> str:
    if not pretrained:
        return "check backbone_args, or choose another backbone"
    return "set model.pretrained to false; or, if its weights are published, run once with a connection"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def _features(network: nn.Module, images: Tensor) -> Any:
    """Return the network's feature map (N, C, H, W), whichever axis it has its channels on; of some, something else."""
    features = network.forward_features(images)
    return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "") == "NHWC" else features


def _leave_out_stem_pool(name: str, network: nn.Module) -> None:
    if not isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        raise HangulOcrError(f"backbone {name!r} has no pooling after its stem; set model.stem_pool to true")
    network.maxpool = nn.Identity()


def _limit_strides(name: str, network: nn.Module, channels: int, along: int, across: int) -> list[_Strided]:
    """Find every strided module's place by one probe, and give each its stride along and across the text."""
    seen: list[tuple[nn.Module, int]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, inputs: seen.append((m, PROBE // inputs[0].shape[-1])))
        for module in network.modules()
        if isinstance(module, _STRIDED) and max(_stride(module)) > 1
    ]
    _probe(name, network, torch.zeros(1, channels, PROBE, PROBE))
    for hook in hooks:
        hook.remove()
    return [_limited(module, reached, along, across) for module, reached in seen]


def _limited(module: nn.Module, reached: int, along: int, across: int) -> _Strided:
    stride = _stride(module)[0]
    entry = _Strided(module, min(stride, max(1, along // reached)), min(stride, max(1, across // reached)))
    if entry.along != stride or entry.across != stride:
        _keep_size(module, stride, entry)
    return entry


def _keep_size(module: nn.Module, stride: int, entry: _Strided) -> None:
    """Pad where a smaller stride would change the output size: a 2 x 2 patch at stride 1 loses a column.

    With zeros, which a shortcut's average takes in, too: its last row and column are fainter. The weights that ship
    have learnt with it.
    """
    kernel, padding = _pair(module.kernel_size)[0], module.padding
    if isinstance(padding, str) or type(module) not in _STRIDED:
        return
    spare = kernel - 1 - 2 * _pair(padding)[0]
    if spare <= 0:
        return

    def pad(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        down, right = (spare if step < stride else 0 for step in _stride(module))
        return (F.pad(inputs[0], (0, right, 0, down)), *inputs[1:])

    module.register_forward_pre_hook(pad)


def _freeze_unused(network: nn.Module, channels: int) -> None:
    """Freeze what the features do not depend on: timm keeps layers of some heads, which never get a gradient.

    Several processes would wait for those gradients. The layers stay, as pretrained weights and checkpoints hold them.
    """
    was_training = network.training
    network.eval()  # the probe must leave no trace in running means
    parameters = list(network.parameters())
    with torch.enable_grad():
        features = _features(network, torch.zeros(1, channels, PROBE, PROBE))
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    network.train(was_training)


def _probe(name: str, network: nn.Module, images: Tensor) -> Tensor:
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            features = _features(network, images)
    except Exception as error:
        raise HangulOcrError(
            f"backbone {name!r} does not take crops of any size ({_reason(error)}); choose a convolutional one, "
            "or check backbone_args"
        ) from None
    network.train(was_training)
    if not isinstance(features, Tensor) or features.dim() != 4:
        raise HangulOcrError(f"backbone {name!r} gives no feature map (N, C, H, W); choose a convolutional one")
    return features


def _feature_width(name: str, backbone: Backbone, channels: int, along: int) -> int:
    """Check crops of two lengths in both reading directions and return the number of feature channels."""
    for shape in ((32, PROBE), (PROBE, 32), (32, PROBE // 2)):
        with backbone._direction(shape[0] > shape[1]):
            features = _probe(name, backbone.network, torch.zeros(1, channels, *shape))
        steps, expected = features.shape[2 if shape[0] > shape[1] else 3], max(shape) // along
        if steps != expected:
            raise HangulOcrError(
                f"backbone {name!r} gives {steps} positions for {max(shape)} pixels where {expected} are wanted; "
                "its strides cannot be adapted: choose another backbone or along_stride"
            )
    return features.shape[1]
