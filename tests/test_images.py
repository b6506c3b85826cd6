"""Encoded images: what decodes the same everywhere, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from hangul_ocr.data.images import UnreadableImage, check_image, decode_image, decode_trusted, image_size


def photo(width: int = 90, height: int = 40) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height)))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_gives_rgb_of_its_size(kind: str) -> None:
    data = encoded(photo(), kind)
    assert image_size(data) == check_image(data) == (90, 40)
    pixels = decode_image(data)
    assert pixels.shape == (40, 90, 3)
    assert pixels.dtype == np.uint8
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(pixels - reference).mean() < 3
    assert np.array_equal(pixels, decode_trusted(data))
    assert decode_image(data, grey=True).shape == (40, 90)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_applied_in_every_way_of_reading(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), kind, exif=exif)
    expected = np.asarray(photo())
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    expected = np.rot90(expected, turns)
    size = expected.shape[1::-1]
    assert image_size(data) == check_image(data) == size
    assert np.abs(decode_image(data).astype(int) - expected).mean() < 8


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "RGBA")]
)
def test_transparency_lies_on_white(kind: str, mode: str) -> None:
    clear = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 10, 10))
    image = clear.convert(mode) if mode != "P" else clear.quantize(4)
    pixels = decode_image(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (pixels[:, 12:] > 240).all()
    assert pixels[5, 2, 1] < 100


def test_a_transparent_colour_of_an_rgb_png_lies_on_white() -> None:
    image = Image.new("RGB", (20, 10), (10, 20, 30))
    pixels = decode_image(encoded(image, "PNG", transparency=(10, 20, 30)))
    assert (pixels == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))
    pixels = decode_image(encoded(Image.fromarray(ramp), kind))
    assert np.abs(pixels[0, :, 0].astype(int) - (ramp[0] >> 8)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(photo().convert(mode), kind)).shape == (40, 90, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    data = encoded(photo(), kind)
    with pytest.raises(UnreadableImage):
        check_image(data[: int(len(data) * kept)])


def test_a_png_without_its_last_bytes_is_refused() -> None:
    data = encoded(photo(), "PNG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_image(data[:-8])


def test_a_flipped_byte_in_a_png_is_refused() -> None:
    data = bytearray(encoded(photo(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UnreadableImage):
        check_image(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"not an image at all", b"\xff\xd8\xff", b"%PDF-1.4", b"BM"]
)
def test_what_is_no_image_is_refused_with_a_reason(data: bytes) -> None:
    for read in (image_size, decode_image, check_image):
        with pytest.raises(UnreadableImage, match=r"\w"):
            read(data)


@pytest.mark.parametrize("size", [(60_000, 60_000), (9_000, 9_000), (0, 10)])
def test_a_decompression_bomb_is_refused_unread(size: tuple[int, int]) -> None:
    for read in (image_size, decode_image, check_image):
        with pytest.raises(UnreadableImage, match=r"pixels|format"):
            read(png_header(*size))


def test_the_limit_can_be_set() -> None:
    with pytest.raises(UnreadableImage, match="90 x 40"):
        decode_image(encoded(photo(), "JPEG"), max_pixels=1000)
