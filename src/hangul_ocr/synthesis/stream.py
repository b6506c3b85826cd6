"""Synthetic crops as a source for training: rendered when asked for, never written to disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hangul_ocr.data.crops import Crop
from hangul_ocr.hangul import Alphabet
from hangul_ocr.synthesis.competition import training_stream_sources
from hangul_ocr.synthesis.fonts import FontFace
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.style import Style
from hangul_ocr.synthesis.words import COMPETITION
from hangul_ocr.workspace import is_main_process

#: Pixels of the short side of crops for networks that take 32.
SHORT_SIDE = (28, 44)
VALIDATION_START = 1 << 40
MOST_SHOWN = 40  # characters in a warning


def drawn_short_side(network: int) -> tuple[int, int]:
    """Return from how many to how many pixels the short side of crops for a network that takes ``network`` has.

    Some are smaller than it takes them, as photographs are; larger ones are only dearer to draw.
    """
    return SHORT_SIDE[0], round(SHORT_SIDE[1] * max(network, 32) / 32)


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
    competition: Path | None,
    seed: int,
    validation: int = 512,
    short_side: tuple[int, int] = SHORT_SIDE,
    characters: str = "",
) -> tuple[SyntheticCrops, SyntheticCrops]:
    """Return an endless training stream and ``validation`` crops that it never shows.

    Beside a sample competition the stream leaves out the test's words and font family (``training_stream_sources``).
    Of ``characters``, an alphabet's, it also draws those that the default alphabet does not have.
    """
    faces, words = training_stream_sources(competition)
    more = words.with_extra(_drawn(_outside(characters), faces))
    stream = Renderer(faces, more, Style.training(short_side), seed)
    held_out = Renderer(faces, replace(words, mix=COMPETITION), Style.signs(), seed)
    return SyntheticCrops(stream), SyntheticCrops(held_out, VALIDATION_START, validation)


def _outside(characters: str) -> str:
    default = Alphabet.for_texts()
    return "".join(character for character in characters if default.missing(character))


def _drawn(characters: str, faces: Sequence[FontFace]) -> str:
    """Return those that some face draws; the others, which only real crops can teach, are named on stderr."""
    known = set().union(*(face.others for face in faces))
    lost = "".join(character for character in characters if character not in known)
    if lost and is_main_process():
        shown = lost if len(lost) <= MOST_SHOWN else f"{lost[:MOST_SHOWN]} ..."
        print(
            f"warning: no font here draws {len(lost)} characters of the alphabet ({shown}): synthetic crops do not "
            "show them; install a font that has them",
            file=sys.stderr,
        )
    return "".join(character for character in characters if character in known)
