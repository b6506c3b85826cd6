"""The stages of the four-stage networks of Baek et al., "What is wrong with scene text recognition model comparisons?",
ICCV 2019 (arXiv 1904.01906): VGG, RCNN and ResNet extractors, two BiLSTMs, and the LSTM decoder with attention.

The same state dicts give the same numbers as the authors' published networks; :mod:`hangul_ocr.models.convert` reads
those. The rectifier is :class:`hangul_ocr.models.rectifier.TPS`, and CTC is the project's own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hangul_ocr.models.attention import AutoregressiveDecoder

Pair = tuple[int, int]

GRCL_STEPS = 5
RESNET_BLOCKS = (1, 2, 5, 3)


class ClovaBackbone(nn.Module):
    """Extractor ``vgg``, ``rcnn`` or ``resnet``: crops (N, C, H, W) to features (N, T, D) along the reading direction.

    T is a quarter of the long side, one less with ``vgg`` and one more with the others (``settings.CLOVA_STEPS``); D is
    ``output_channel``; what is left of the other axis is averaged. For text that runs down, each module's two axes
    change places, so the same kernels see upright syllables.
    """

    def __init__(self, kind: str, channels: int, output_channel: int) -> None:
        super().__init__()
        self.width = output_channel
        self.layers = _EXTRACTORS[kind](channels, output_channel)
        self._turned = [_Turned.of(module) for module in self.layers.modules() if isinstance(module, _WINDOWED)]
        _kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, T, D) for ``images`` (N, C, H, W)."""
        down = images.shape[2] > images.shape[3]
        for entry in self._turned:
            entry.turn(down)
        return self.layers(images).mean(dim=3 if down else 2).transpose(1, 2)

    def layer_numbers(self) -> dict[str, int]:
        """Return for each parameter, by name, which of the layers with parameters it is in, 0 being the first."""
        names = dict.fromkeys(name.rsplit(".", 1)[0] for name, _ in self.named_parameters())
        number = {name: i for i, name in enumerate(names)}
        return {name: number[name.rsplit(".", 1)[0]] for name, _ in self.named_parameters()}


_WINDOWED = (nn.Conv2d, nn.MaxPool2d)


@dataclass(frozen=True)
class _Turned:
    """A module with its window for text that runs across."""

    module: nn.Module
    kernel: Pair
    stride: Pair
    padding: Pair

    @classmethod
    def of(cls, module: nn.Module) -> _Turned:
        return cls(module, _pair(module.kernel_size), _pair(module.stride), _pair(module.padding))

    def turn(self, down: bool) -> None:
        step = -1 if down else 1
        self.module.stride, self.module.padding = self.stride[::step], self.padding[::step]
        self.module.kernel_size = self.kernel[::step]


def _pair(value: int | Pair) -> Pair:
    return value if isinstance(value, tuple) else (value, value)


def _conv(before: int, after: int, kernel: int = 3, stride: int | Pair = 1, padding: int | Pair = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, padding, bias=False)


def _vgg(channels: int, width: int) -> nn.Sequential:
    """The extractor of CRNN (Shi et al., arXiv 1507.05717)."""
    a, b, c = width // 8, width // 4, width // 2
    return nn.Sequential(
        *(nn.Conv2d(channels, a, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(b, c, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(), nn.MaxPool2d((2, 1))),
        *(_conv(c, width), nn.BatchNorm2d(width), nn.ReLU()),
        *(_conv(width, width), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d((2, 1))),
        *(nn.Conv2d(width, width, 2), nn.ReLU()),
    )


def _rcnn(channels: int, width: int) -> nn.Sequential:
    """The extractor of GRCNN (Wang and Hu, NIPS 2017)."""
    a, b, c = width // 8, width // 4, width // 2
    return nn.Sequential(
        *(nn.Conv2d(channels, a, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(GatedRecurrentConvolution(a, a), nn.MaxPool2d(2)),
        *(GatedRecurrentConvolution(a, b), nn.MaxPool2d(2, (2, 1), (0, 1))),
        *(GatedRecurrentConvolution(b, c), nn.MaxPool2d(2, (2, 1), (0, 1))),
        *(_conv(c, width, 2, 1, 0), nn.BatchNorm2d(width), nn.ReLU()),
    )


class GatedRecurrentConvolution(nn.Module):
    """A convolution that looks at its own output again, five times, through a gate; each time with its own norms."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.gate_input, self.gate_state = _conv(before, after, 1, 1, 0), _conv(after, after, 1, 1, 0)
        self.input, self.state = _conv(before, after), _conv(after, after)
        self.norm = nn.BatchNorm2d(after)
        self.steps = nn.ModuleList(_GatedStep(after) for _ in range(GRCL_STEPS))

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, after, H, W) for ``features`` (N, before, H, W)."""
        gate, entering = self.gate_input(features), self.input(features)
        state = self.norm(entering).relu()
        for step in self.steps:
            state = step(gate, self.gate_state(state), entering, self.state(state))
        return state


class _GatedStep(nn.Module):
    """One look of a gated recurrent convolution: the norms, which alone are its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_input, self.gate_state = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.input, self.state, self.gated = (nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, gate: Tensor, gate_state: Tensor, entering: Tensor, state: Tensor) -> Tensor:
        opening = (self.gate_input(gate) + self.gate_state(gate_state)).sigmoid()
        return (self.input(entering) + self.gated(self.state(state) * opening)).relu()


def _resnet(channels: int, width: int) -> nn.Sequential:
    """The 29 layers of FAN (Cheng et al., ICCV 2017). Layers bear the names that published checkpoints give them."""
    a, b, c = width // 4, width // 2, width
    groups = [
        _normed("0_1", _conv(channels, width // 16)) | _normed("0_2", _conv(width // 16, width // 8)),
        {"pool1": nn.MaxPool2d(2), "layer1": _blocks(width // 8, a, RESNET_BLOCKS[0])} | _normed("1", _conv(a, a)),
        {"pool2": nn.MaxPool2d(2), "layer2": _blocks(a, b, RESNET_BLOCKS[1])} | _normed("2", _conv(b, b)),
        {"pool3": nn.MaxPool2d(2, (2, 1), (0, 1)), "layer3": _blocks(b, c, RESNET_BLOCKS[2])},
        _normed("3", _conv(c, c)) | {"layer4": _blocks(c, c, RESNET_BLOCKS[3])},
        _normed("4_1", _conv(c, c, 2, (2, 1), (0, 1))) | _normed("4_2", _conv(c, c, 2, 1, 0)),
    ]
    return nn.Sequential(OrderedDict(item for group in groups for item in group.items()))


def _normed(name: str, conv: nn.Conv2d) -> dict[str, nn.Module]:
    return {f"conv{name}": conv, f"bn{name}": nn.BatchNorm2d(conv.out_channels), f"relu{name}": nn.ReLU()}


def _blocks(before: int, after: int, count: int) -> nn.Sequential:
    return nn.Sequential(_BasicBlock(before, after), *(_BasicBlock(after, after) for _ in range(count - 1)))


class _BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after), nn.BatchNorm2d(after)
        same = before == after
        self.downsample = None if same else nn.Sequential(_conv(before, after, 1, 1, 0), nn.BatchNorm2d(after))

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        features = self.bn1(self.conv1(features)).relu()
        return (self.bn2(self.conv2(features)) + shortcut).relu()


_EXTRACTORS = {"vgg": _vgg, "rcnn": _rcnn, "resnet": _resnet}


class ClovaSequence(nn.Module):
    """``bilstm``: two bidirectional LSTMs, each with a linear layer, ``hidden`` wide; ``none``: the features as is."""

    def __init__(self, width: int, hidden: int, kind: str) -> None:
        super().__init__()
        inputs = (width, hidden) if kind == "bilstm" else ()
        self.width = hidden if inputs else width
        self.lstms = nn.ModuleList(nn.LSTM(w, hidden, bidirectional=True, batch_first=True) for w in inputs)
        self.linears = nn.ModuleList(nn.Linear(2 * hidden, hidden) for _ in inputs)
        _kaiming(self)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, T, self.width) for ``features`` (N, T, width)."""
        for lstm, linear in zip(self.lstms, self.linears, strict=True):
            features = linear(lstm(features)[0])
        return features


class LstmAttention(AutoregressiveDecoder):
    """A one-layer LSTM that looks at the features with additive attention (Bahdanau et al., arXiv 1409.0473).

    Beside the alphabet's ``classes`` it has one more, the last: the start symbol, which is fed in and never written.
    """

    def __init__(self, width: int, hidden: int, classes: int, max_length: int) -> None:
        super().__init__(classes, max_length)
        self.key = nn.Linear(width, hidden, bias=False)
        self.query = nn.Linear(hidden, hidden)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.context = nn.Linear(width, 4 * hidden)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)
        # The product of a one-hot character with the LSTM's weights is a row of a table; as rows, the characters can
        # also be carried over to another alphabet.
        self.symbols = nn.Embedding(classes + 1, 4 * hidden)
        self.classifier = nn.Linear(hidden, classes + 1)
        _kaiming(self)
        nn.init.normal_(self.symbols.weight, std=(2 / (width + classes + 1)) ** 0.5)

    def begin(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features' keys (N, T, hidden), and the LSTM's output and cell (N, hidden), all zeros."""
        keys = self.key(features)
        zeros = keys.new_zeros(len(keys), keys.shape[2])
        return keys, zeros, zeros

    def reorder(self, state: tuple[Tensor, Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the state of the beams ``rows`` (M,)."""
        return tuple(part[rows] for part in state)

    def advance(
        self, features: Tensor, state: tuple[Tensor, Tensor, Tensor], symbols: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Feed ``symbols`` (N,); return log probabilities (N, classes) of what follows, and the new state."""
        state = self._step(features, state, self.symbols(symbols))
        return self._log_probabilities(state[1]), state

    def teacher_forced(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return log probabilities (N, L, classes) of what follows each prefix of ``inputs`` (N, L)."""
        return self._log_probabilities(self.outputs(features, inputs))

    def outputs(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return the LSTM's outputs (N, L, hidden) as it reads ``inputs`` (N, L)."""
        state, outputs = self.begin(features), []
        for entering in self.symbols(inputs).unbind(1):
            state = self._step(features, state, entering)
            outputs.append(state[1])
        return torch.stack(outputs, dim=1)

    def attended(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return (N, L, T): how much each time step is looked at after each prefix of ``inputs``; each sums to 1."""
        state, weights = self.begin(features), []
        for entering in self.symbols(inputs).unbind(1):
            weights.append(self._weights(state).squeeze(-1))
            state = self._step(features, state, entering)
        return torch.stack(weights, dim=1)

    def _weights(self, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        keys, output, _ = state
        return self.energy((keys + self.query(output).unsqueeze(1)).tanh()).softmax(dim=1)

    def _step(
        self, features: Tensor, state: tuple[Tensor, Tensor, Tensor], entering: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        keys, output, cell = state
        weights = self._weights(state)
        context = (features * weights).sum(dim=1)
        gates = self.context(context) + self.recurrent(output) + entering
        enter, forget, fresh, leave = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * fresh.tanh()
        return keys, leave.sigmoid() * cell.tanh(), cell

    def _log_probabilities(self, outputs: Tensor) -> Tensor:
        # The start symbol takes its share of the probability, as in the published networks, and is then left out.
        return self.classifier(outputs).float().log_softmax(dim=-1)[..., : self.start]


def _kaiming(module: nn.Module) -> None:
    """Start as the published networks did: weights by He et al. (arXiv 1502.01852), biases zero."""
    for parameter in _weights(module):
        nn.init.kaiming_normal_(parameter)
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)


def _weights(module: nn.Module) -> Iterable[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.dim() > 1)
