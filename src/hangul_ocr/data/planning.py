"""What importers plan: pieces of work that yield samples, each of which may be done anywhere and in any order.

Finding and pairing files is quick and is done in one place; reading, decoding and cutting them is not. So importers
yield what they know already (a ``LeftOut``, sometimes a ``Sample``) and ``Work`` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hangul_ocr.data.archives import StoredFile, UnreadableFile
from hangul_ocr.data.dacon import canonical_path
from hangul_ocr.data.images import Size, UnreadableImage, check_image, image_size, shrunk
from hangul_ocr.data.sample import LeftOut, Sample, label_fault, shortened
from hangul_ocr.hangul import HangulOcrError


@dataclass(frozen=True)
class ImportSettings:
    """What an importer may be told.

    Crops of photographs get ``margin`` times their short side around the box; they are halved as long as their short
    side keeps ``short_side`` pixels, and stored as JPEG of ``quality``. With ``shrink`` so are images that are samples
    as they are, which keep their files' bytes else. ``scripts`` are kept of ICDAR's word lists. ``rescued`` are keys
    (:func:`canonical_path`) that corrections label anew: work does not leave them out for labels like ``xxx``. Raises
    ``HangulOcrError`` for values that make no sense.
    """

    margin: float = 0.05
    short_side: int = 96
    quality: int = 95
    scripts: tuple[str, ...] = ("Korean",)
    shrink: bool = False
    rescued: frozenset[str] = frozenset()

    def fault(self, key: str, text: str) -> str:
        """Return why the crop ``key`` is left out for its label ``text``; empty if it is not."""
        fault = label_fault(text)
        return "" if fault and canonical_path(key) in self.rescued else fault

    def __post_init__(self) -> None:
        for name, low, high in (("margin", 0, 1), ("short_side", 8, 4096), ("quality", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise HangulOcrError(f"{name} {getattr(self, name)}: choose one from {low} to {high}")


class Work(Protocol):
    """A piece of an import, picklable, that yields the samples of one file or photograph.

    Its ``repr`` says what it is, the same in every process, and the files that it reads are fields of it: an
    interrupted import is gone on with only where both are as they were.
    """

    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]: ...


Planned = Sample | LeftOut | Work


def do(planned: Planned, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
    """Yield what a planned item comes to."""
    if isinstance(planned, (Sample, LeftOut)):
        yield planned
    else:
        yield from planned.samples(settings)


def shrunk_if_asked(item: Sample | LeftOut, settings: ImportSettings) -> Sample | LeftOut:
    """Return a sample whose image was checked as ``settings.shrink`` wants it stored."""
    if isinstance(item, LeftOut) or not settings.shrink:
        return item
    return replace(item, image=shrunk(item.image, settings.short_side, settings.quality))


@dataclass(frozen=True)
class WholeImage:
    """An image that is one sample as it is.

    Where other labels claim the image too, ``rivals`` are the sizes (width, height) that they declare and ``declared``
    is this label's, None if there is none: the image is that label's alone whose size it has.
    """

    file: StoredFile
    key: str
    text: str
    source: str
    group: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    declared: Size | None = None
    rivals: tuple[Size | None, ...] = ()

    def samples(self, settings: ImportSettings) -> Iterator[Sample | LeftOut]:
        """Yield the sample, or why it is left out: for its label, ``unreadable image``, or ``image of another label``
        and ``ambiguous image`` where labels contend for it."""
        yield self._checked(settings)

    def _checked(self, settings: ImportSettings) -> Sample | LeftOut:
        if reason := settings.fault(self.key, self.text):
            return LeftOut(self.key, reason, shortened(self.text))
        try:
            data = self.file.read()
            check_image(data)
        except (UnreadableFile, UnreadableImage) as error:
            return LeftOut(self.key, "unreadable image", str(error))
        if self.rivals and (reason := self._lost_to_rival(image_size(data))):
            return LeftOut(self.key, reason, shortened(self.text))
        return shrunk_if_asked(Sample(self.key, data, self.text, self.source, self.group, self.facts), settings)

    def _lost_to_rival(self, size: Size) -> str:
        """Return why an image of ``size`` may not be this label's, empty if it is."""
        if self.declared not in (None, size):
            return "image of another label"
        contending = None in self.rivals or size in self.rivals
        return "ambiguous image" if contending or self.declared is None else ""
