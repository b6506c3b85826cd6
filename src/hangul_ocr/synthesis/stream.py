"""Synthetic crops as a source for training: rendered when asked for, never written to disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hangul_ocr.data.crops import Crop
from hangul_ocr.synthesis.competition import training_stream_sources
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.style import Style
from hangul_ocr.synthesis.words import COMPETITION

# Training squeezes every crop to the network's short side, so larger ones would only cost time.
SHORT_SIDE = (28, 44)
VALIDATION_START = 1 << 40


class SyntheticCrops:
    """An endless stream, or ``length`` crops from ``start`` on; crop ``i`` is the same whenever it is asked for."""

    def __init__(self, renderer: Renderer, start: int = 0, length: int = 1 << 40) -> None:
        self.renderer, self.start, self.length = renderer, start, length

    def __len__(self) -> int:
        return self.length

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return crop ``index`` with its characters' centres; it needs nothing from ``rng``."""
        rendered = self.renderer.render(self.start + index)
        return Crop(f"synthetic/{self.start + index}", rendered.image, rendered.text, rendered.centres)


def synthetic_sources(
    competition: Path | None, seed: int, validation: int = 512, short_side: tuple[int, int] = SHORT_SIDE
) -> tuple[SyntheticCrops, SyntheticCrops]:
    """Return an endless training stream and ``validation`` crops that it never shows.

    Beside a sample competition the stream leaves out the test's words and font family (``training_stream_sources``).
    """
    faces, words = training_stream_sources(competition)
    stream = Renderer(faces, words, Style.training(short_side), seed)
    held_out = Renderer(faces, replace(words, mix=COMPETITION), Style.signs(), seed)
    return SyntheticCrops(stream), SyntheticCrops(held_out, VALIDATION_START, validation)
