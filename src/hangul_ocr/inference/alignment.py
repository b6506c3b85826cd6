"""Where in a crop a recogniser read each character: one alignment from each of its decoders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hangul_ocr.data.batches import batch_shape, make_groups
from hangul_ocr.data.crops import Crop
from hangul_ocr.evaluation.alignment import Alignment, ctc_occupancy
from hangul_ocr.models.attention import AutoregressiveDecoder
from hangul_ocr.models.hybrid import HybridDecoder
from hangul_ocr.models.recognizer import Recognizer


@torch.inference_mode()
def align_crop(model: Recognizer, image: np.ndarray, text: str | None = None) -> list[Alignment]:
    """Return where ``model`` finds each character of ``text`` (default: its greedy reading) in one crop (H, W, 3).

    A hybrid decoder gives two alignments: CTC's and its attention branch's. Raises ``HangulOcrError`` for a text that
    needs more time steps than the crop has, ``KeyError`` for one that the alphabet cannot write.
    """
    group = make_groups([Crop("0", image, "")], model.settings, model.alphabet)[0]
    features = model.eval().features(group.images.to(next(model.parameters()).device))
    classes = model.decoder.greedy(features)[0][0] if text is None else model.alphabet.encode(text)
    height, width = batch_shape(image.shape[1], image.shape[0], model.settings)
    read, down = model.alphabet.decode(classes), height > width
    return [Alignment(read, weights, method, down) for method, weights in _weights(model, features, classes)]


def _weights(model: Recognizer, features: Tensor, classes: Sequence[int]) -> list[tuple[str, np.ndarray]]:
    decoder, found = model.decoder, []
    if hasattr(decoder, "log_probabilities"):
        found.append(("CTC", ctc_occupancy(decoder.log_probabilities(features)[0].exp().cpu().numpy(), classes)))
    attention = decoder.attention if isinstance(decoder, HybridDecoder) else decoder
    if isinstance(attention, AutoregressiveDecoder):
        inputs = torch.tensor([[attention.start, *classes[:-1]]], device=features.device)
        weights = attention.attended(features, inputs)[0, : len(classes)].float().cpu().numpy()
        found.append(("attention", weights))
    return found
