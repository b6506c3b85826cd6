"""The recogniser: crops in, strings out. Backbone, sequence model and decoder, chosen by settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hangul_ocr.hangul import Alphabet
from hangul_ocr.models.attention import AttentionDecoder
from hangul_ocr.models.backbone import Backbone
from hangul_ocr.models.classifier import make_classifier
from hangul_ocr.models.clova import ClovaBackbone, ClovaSequence, LstmAttention
from hangul_ocr.models.ctc import CTCDecoder
from hangul_ocr.models.hybrid import HybridDecoder
from hangul_ocr.models.rectifier import TPS
from hangul_ocr.settings import CLOVA_STEPS, PLAIN_LOSS, LossWeights, ModelSettings

SCORED_TOGETHER = 64  # strings; in each thread that scores, each costs time steps x classes of memory


class SequenceModel(nn.Module):
    """Normalises the backbone's features and, if asked, reads them in both directions with an LSTM."""

    def __init__(self, kind: str, width: int, hidden: int) -> None:
        super().__init__()
        self.width = hidden
        # Without this LayerNorm the LSTM saturates and training stays on CTC's plateau several times longer.
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU())
        self.lstm = nn.LSTM(hidden, hidden, bidirectional=True, batch_first=True) if kind == "bilstm" else None
        self.leave = nn.Sequential(nn.Linear(2 * hidden, hidden) if self.lstm else nn.Identity(), nn.LayerNorm(hidden))

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, T, hidden) for ``features`` (N, T, width)."""
        features = self.enter(features)
        if self.lstm is not None:
            # oneDNN's LSTM returns time first in memory, on which the next layer takes four times as long.
            features = self.lstm(features)[0].contiguous()
        return self.leave(features)


class Recognizer(nn.Module):
    """Text recogniser for crops of one shape a batch, wide (text runs across) or tall (text runs down)."""

    def __init__(self, settings: ModelSettings, alphabet: Alphabet) -> None:
        super().__init__()
        self.settings, self.alphabet = settings, alphabet
        self.rectifier = TPS(1 if settings.grey else 3) if settings.rectifier == "tps" else nn.Identity()
        self.backbone = _make_backbone(settings)
        self.neck = _make_neck(settings, self.backbone.width)
        self.decoder = _make_decoder(settings, self.neck.width, alphabet)

    def features(self, images: Tensor) -> Tensor:
        """Return (N, T, D) for uint8 crops (N, H, W, C)."""
        pixels = self._normalised(images.permute(0, 3, 1, 2).float())
        return self.neck(self.backbone(self.rectifier(pixels.contiguous(memory_format=torch.channels_last))))

    def _normalised(self, pixels: Tensor) -> Tensor:
        if self.settings.normalisation == "fixed":
            return pixels / 127.5 - 1
        # Step by step: PyTorch's std_mean takes several times as long on a CPU.
        centred = pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)
        variance = centred.square().sum(dim=(1, 2, 3), keepdim=True) / max(1, centred[0].numel() - 1)
        return centred / (variance.sqrt() + 4.0)

    def forward(
        self, images: Tensor, targets: Sequence[Sequence[int]], frames: Tensor, weights: LossWeights = PLAIN_LOSS
    ) -> Tensor:
        """Return the training loss of each crop (N,); see the decoders' ``loss``."""
        return self.decoder.loss(self.features(images), targets, frames, weights)

    @torch.no_grad()
    def candidates(self, images: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Return for each uint8 crop up to ``count`` strings with log probabilities, best first."""
        return self.candidates_from(self.features(images), count)

    @torch.no_grad()
    def candidates_from(self, features: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Do what :meth:`candidates` does from ``features`` (N, T, D)."""
        found = self.decoder.candidates(features, count)
        return [[(self.alphabet.decode(c), p) for c, p in rows] for rows in found]

    @torch.no_grad()
    def greedy_from(self, features: Tensor) -> list[tuple[str, float]]:
        """Return the string that each crop's ``features`` (N, T, D) give greedily, and its log probability."""
        return [(self.alphabet.decode(classes), value) for classes, value in self.decoder.greedy(features)]

    @torch.no_grad()
    def score(self, images: Tensor, strings: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return log P(string | crop) for each crop's own list of strings; -inf where the alphabet cannot write one."""
        return self.score_from(self.features(images), strings)

    @torch.no_grad()
    def score_from(self, features: Tensor, strings: Sequence[Sequence[str]]) -> list[list[float]]:
        """Do what :meth:`score` does from ``features`` (N, T, D)."""
        rows = [i for i, group in enumerate(strings) for _ in group]
        texts = [text for group in strings for text in group]
        encoded = [[] if self.alphabet.missing(text) else self.alphabet.encode(text) for text in texts]
        scores: list[float] = []
        for start in range(0, len(rows), SCORED_TOGETHER):
            part = slice(start, start + SCORED_TOGETHER)
            asked = {row: place for place, row in enumerate(dict.fromkeys(rows[part]))}  # not crops without strings
            places = [asked[row] for row in rows[part]]
            scores += self.decoder.score(features[list(asked)], encoded[part], places).tolist()
        values = iter(float("-inf") if self.alphabet.missing(t) else s for t, s in zip(texts, scores, strict=True))
        return [[next(values) for _ in group] for group in strings]


def _make_backbone(settings: ModelSettings) -> nn.Module:
    channels = 1 if settings.grey else 3
    if settings.backbone in CLOVA_STEPS:
        return ClovaBackbone(settings.backbone.removeprefix("clova_"), channels, **settings.backbone_args)
    return Backbone(
        settings.backbone,
        channels=channels,
        along_stride=settings.along_stride,
        across_stride=settings.across_stride,
        stem_pool=settings.stem_pool,
        pretrained=settings.pretrained,
        arguments=settings.backbone_args,
    )


def _make_neck(settings: ModelSettings, width: int) -> nn.Module:
    if settings.neck in ("clova_bilstm", "identity"):
        return ClovaSequence(width, settings.hidden, "bilstm" if settings.neck == "clova_bilstm" else "none")
    return SequenceModel(settings.neck, width, settings.hidden)


def _make_decoder(settings: ModelSettings, width: int, alphabet: Alphabet) -> nn.Module:
    if settings.decoder == "lstm_attention":
        return LstmAttention(width, settings.hidden, len(alphabet), settings.max_length)

    def classifier() -> nn.Module:
        return make_classifier(settings.classifier, width, alphabet)

    if settings.decoder == "ctc":
        return CTCDecoder(classifier())
    attention = AttentionDecoder(classifier(), len(alphabet), width, settings.max_length)
    if settings.decoder == "attention":
        return attention
    return HybridDecoder(CTCDecoder(classifier()), attention, settings.joint_share)
