"""Encoded image bytes to pixels: OpenCV where it is exact, Pillow where it is not, and a check for imports.

OpenCV decodes about five times as fast as Pillow, but drops transparency, ignores some files' orientation and hands out
the readable half of a truncated file. So :func:`check_image` is for what comes in from outside, :func:`decode_image`
for single images, and :func:`decode_trusted` for the training loop, which reads what was checked before.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageOps

Size = tuple[int, int]  # width, height

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# Larger than any phone's photograph that the data sets hold; 80 million pixels are 240 MB as RGB.
MAX_PIXELS = 80_000_000

# No side of a JPEG that libjpeg writes is longer.
LONGEST_JPEG = 65_500

# OpenCV's way to read 1 / n of an image's size, which saves time for a JPEG.
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_PNG_GREY, _PNG_RGB = 0, 2
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
_START_OF_SCAN, _EXIF = 0xDA, 0xE1
# Baseline, extended and progressive frames; tables, restart intervals, comments and what applications add.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_KNOWN = frozenset({0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_FAILURES = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    KeyError,
    struct.error,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


# Pillow would say so for every other photograph; without EXIF data that can be read, an image lies as it is stored.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)


class UnreadableImage(Exception):
    """Bytes that are no whole, readable image of a sensible size; the message is the reason."""


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) as decoded, orientation applied, from the header alone.

    Raises ``UnreadableImage`` for bytes that are no image, and for more than ``max_pixels`` (a decompression bomb).
    """
    if data[:8] == _PNG and len(data) >= 26 and data[12:16] == b"IHDR" and _is_plain_png(data):
        return _within(*struct.unpack(">II", data[16:24]), max_pixels)
    if size := _plain_jpeg_size(data):
        return _within(*size, max_pixels)
    with _opened(data, max_pixels) as image:
        if image.format == "TIFF":  # Pillow turns these itself, some versions on opening, some on loading.
            _load(image)
            return image.size
        return image.size[::-1] if _orientation(image) in _SIDEWAYS else image.size


def stored_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """Return (width, height, EXIF orientation 1 to 8) of the pixels as they are stored, before they are turned.

    Raises ``UnreadableImage`` as :func:`image_size` does.
    """
    with _opened(data, max_pixels) as image:
        if image.format == "TIFF":
            _load(image)
            return (*image.size, 1)
        orientation = _orientation(image)
        return (*image.size, orientation if 1 <= orientation <= 8 else 1)


def is_whole_jpeg(data: bytes) -> bool:
    """Tell whether a JPEG's pixels are followed by its end mark; one in an embedded preview does not count.

    OpenCV decodes a truncated JPEG without a word, and Pillow, which does not, takes several times as long.
    """
    return any(marker == _START_OF_SCAN and data.rfind(b"\xff\xd9") > place for marker, place in _jpeg_markers(data))


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker of a JPEG's header, up to the start of its pixels, and the place of its segment's length."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        alone = marker == 0xFF or marker in _WITHOUT_LENGTH
        if not alone:
            yield marker, place + 2
        if marker == _START_OF_SCAN:
            return
        place += (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(data[place + 2 : place + 4], "big")


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of an ordinary JPEG without EXIF data, which might turn it; None for any other."""
    size = None
    if data[:3] == _JPEG:
        for marker, place in _jpeg_markers(data):
            if marker in _FRAMES and len(data) >= place + 7:
                size = struct.unpack(">HH", data[place + 3 : place + 7])[::-1]
            elif marker == _EXIF or marker not in _KNOWN:
                return None
    return size if size and all(size) else None


def decode_image(data: bytes, *, grey: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an encoded image as (H, W, 3) uint8 RGB, or (H, W) if ``grey``.

    EXIF orientation is applied, transparency laid on white, sixteen bits reduced to eight. Raises ``UnreadableImage``
    for empty, truncated or corrupted bytes and for more than ``max_pixels`` pixels.
    """
    _refuse_truncated(data)
    image_size(data, max_pixels=max_pixels)
    return decode_trusted(data, grey=grey)


def decode_trusted(data: bytes, *, grey: bool = False, short_side: int = 0) -> np.ndarray:
    """Return the same as :func:`decode_image` without its checks, for bytes that were checked when they were stored.

    With ``short_side`` a JPEG may come at a half, a quarter or an eighth of its size, as long as its short side keeps
    as many pixels: that takes little more than half the time.
    """
    if not _is_plain(data):
        return _decode_carefully(data, grey)
    size = _plain_jpeg_size(data) if short_side else None
    reduction = next((n for n in (8, 4, 2) if min(size) >= n * short_side), 1) if size else 1
    image = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduction])
    if image is None:
        return _decode_carefully(data, grey)
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if grey else cv2.COLOR_BGR2RGB)


def check_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Decode ``data`` strictly and return (width, height) as :func:`decode_image` gives them.

    Raises ``UnreadableImage`` with the reason; unlike OpenCV, it refuses an image of which a part is missing.
    """
    if is_whole_jpeg(data) if data[:3] == _JPEG else _is_whole_png(data):
        size = image_size(data, max_pixels=max_pixels)
        # An eighth of a JPEG takes all of its data, but a fraction of the time.
        way = cv2.IMREAD_REDUCED_GRAYSCALE_8 if data[:3] == _JPEG else cv2.IMREAD_COLOR
        if cv2.imdecode(np.frombuffer(data, np.uint8), way) is not None:
            return size
    # Pillow takes longer, but refuses what is damaged, and says why.
    _refuse_truncated(data)
    with _opened(data, max_pixels) as image:
        _load(image)
    height, width = decode_trusted(data).shape[:2]
    return width, height


def shrunk(data: bytes, short_side: int, quality: int) -> bytes:
    """Return a checked image as JPEG of ``quality``, halved as long as its short side keeps ``short_side`` pixels.

    One that is too long for a JPEG stays what it is.
    """
    image = decode_trusted(data, short_side=short_side)
    while min(image.shape[:2]) >= 2 * short_side:
        height, width = image.shape[:2]
        image = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    if max(image.shape) > LONGEST_JPEG:
        return data
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _refuse_truncated(data: bytes) -> None:
    if not data:
        raise UnreadableImage("the file is empty")
    if data[:8] == _PNG and b"IEND" not in data:
        raise UnreadableImage("the file is truncated: a PNG without its end")


def _within(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    if not (width and height):
        raise UnreadableImage(f"the header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise UnreadableImage(f"the header says {width} x {height} pixels, more than {max_pixels:,} (refused unread)")
    return width, height


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header with Pillow, which decodes nothing yet."""
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"too many pixels: {error}") from None
    except _FAILURES as error:
        raise UnreadableImage(f"no image in a known format ({_reason(error)})") from None
    _within(*image.size, max_pixels)
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except _FAILURES as error:
        raise UnreadableImage(f"corrupted or truncated ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    text = str(error)
    return type(error).__name__ if not text or "BytesIO" in text else text


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _FAILURES:
        return 1


def _is_plain(data: bytes) -> bool:
    """Tell whether OpenCV decodes this file exactly: no transparency, no palette, no orientation it would miss."""
    if data[:3] == _JPEG or data[:2] == b"BM":
        return True
    if data[:8] == _PNG:
        return _is_plain_png(data)
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 "


def _is_plain_png(data: bytes) -> bool:
    """Tell whether a PNG is grey or RGB without a transparent colour or an orientation."""
    if len(data) < 26 or data[25] not in (_PNG_GREY, _PNG_RGB):
        return False
    kinds = [data[start - 4 : start] for start, _ in _png_chunks(data)]
    before = kinds[: kinds.index(b"IDAT")] if b"IDAT" in kinds else kinds
    return b"tRNS" not in before and b"eXIf" not in kinds


def _png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each chunk's content, which follows its kind, starts and ends; the last may be cut short."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        yield place + 8, end
        place = end + 4


def _is_whole_png(data: bytes) -> bool:
    """Tell whether a PNG is grey or RGB and all its chunks, to the last, are as their checksums say."""
    if data[:8] != _PNG or not _is_plain_png(data):
        return False
    view = memoryview(data)
    for start, end in _png_chunks(data):
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[start - 4 : start] == b"IEND":
            return True
    return False


def _decode_carefully(data: bytes, grey: bool) -> np.ndarray:
    """Decode with Pillow: any mode, transparency laid on white, orientation applied."""
    with _opened(data, MAX_PIXELS) as image:
        _load(image)
        try:
            pixels = _to_rgb(_upright(image))
        except _FAILURES as error:
            raise UnreadableImage(f"corrupted ({_reason(error)})") from None
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if grey else pixels


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8. Pillow would clip sixteen-bit grey, so that is scaled here."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    coloured = image.convert("RGBA")
    return np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB"))
