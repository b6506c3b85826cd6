"""The recogniser: crops in, strings out. Backbone, sequence model and decoder, chosen by settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hangul_ocr.hangul import Alphabet
from hangul_ocr.models.attention import AttentionDecoder
from hangul_ocr.models.backbone import Backbone
from hangul_ocr.models.classifier import make_classifier
from hangul_ocr.models.ctc import CTCDecoder
from hangul_ocr.settings import ModelSettings

SCORED_TOGETHER = 256  # strings; each costs time steps x classes of memory


class SequenceModel(nn.Module):
    """Normalises the backbone's features and, if asked, reads them in both directions with an LSTM."""

    def __init__(self, kind: str, width: int, hidden: int) -> None:
        super().__init__()
        # Without this LayerNorm the LSTM saturates and training stays on CTC's plateau several times longer.
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU())
        self.lstm = nn.LSTM(hidden, hidden, bidirectional=True, batch_first=True) if kind == "bilstm" else None
        self.leave = nn.Sequential(nn.Linear(2 * hidden, hidden) if self.lstm else nn.Identity(), nn.LayerNorm(hidden))

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, T, hidden) for ``features`` (N, T, width)."""
        features = self.enter(features)
        if self.lstm is not None:
            features = self.lstm(features)[0]
        return self.leave(features)


class Recognizer(nn.Module):
    """Text recogniser for crops of one shape a batch, wide (text runs across) or tall (text runs down)."""

    def __init__(self, settings: ModelSettings, alphabet: Alphabet) -> None:
        super().__init__()
        self.settings, self.alphabet = settings, alphabet
        self.backbone = Backbone(
            settings.backbone,
            channels=1 if settings.grey else 3,
            along_stride=settings.along_stride,
            across_stride=settings.across_stride,
            mixing_blocks=settings.mixing_blocks,
            pretrained=settings.pretrained,
            arguments=settings.backbone_args,
        )
        self.neck = SequenceModel(settings.neck, self.backbone.width, settings.hidden)
        self.decoder = _make_decoder(settings, alphabet)

    def features(self, images: Tensor) -> Tensor:
        """Return (N, T, hidden) for uint8 crops (N, H, W, C), each brought to zero mean and unit spread."""
        pixels = images.permute(0, 3, 1, 2).float()
        spread, mean = torch.std_mean(pixels, dim=(1, 2, 3), keepdim=True)
        pixels = (pixels - mean) / (spread + 4.0)
        return self.neck(self.backbone(pixels.contiguous(memory_format=torch.channels_last)))

    def forward(
        self, images: Tensor, targets: Sequence[Sequence[int]], frames: Tensor, alignment: float = 0.0
    ) -> Tensor:
        """Return the training loss of each crop (N,); see the decoders' ``loss``."""
        return self.decoder.loss(self.features(images), targets, frames, alignment)

    @torch.no_grad()
    def read(self, images: Tensor) -> list[tuple[str, float]]:
        """Return for each uint8 crop its greedy string and log probability."""
        return [(self.alphabet.decode(c), p) for c, p in self.decoder.greedy(self.features(images))]

    @torch.no_grad()
    def candidates(self, images: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Return for each uint8 crop up to ``count`` strings with log probabilities, best first."""
        found = self.decoder.candidates(self.features(images), count)
        return [[(self.alphabet.decode(c), p) for c, p in rows] for rows in found]

    @torch.no_grad()
    def score(self, images: Tensor, strings: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return log P(string | crop) for each crop's own list of strings; -inf where the alphabet cannot write one."""
        features = self.features(images)
        rows = [i for i, group in enumerate(strings) for _ in group]
        texts = [text for group in strings for text in group]
        encoded = [[] if self.alphabet.missing(text) else self.alphabet.encode(text) for text in texts]
        scores: list[float] = []
        for start in range(0, len(rows), SCORED_TOGETHER):
            part = slice(start, start + SCORED_TOGETHER)
            scores += self.decoder.score(features[rows[part]], encoded[part]).tolist()
        values = iter(float("-inf") if self.alphabet.missing(t) else s for t, s in zip(texts, scores, strict=True))
        return [[next(values) for _ in group] for group in strings]


def _make_decoder(settings: ModelSettings, alphabet: Alphabet) -> nn.Module:
    classifier = make_classifier(settings.classifier, settings.hidden, alphabet)
    if settings.decoder == "ctc":
        return CTCDecoder(classifier)
    return AttentionDecoder(classifier, len(alphabet), settings.hidden, settings.max_length)
