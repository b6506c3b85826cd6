"""Encoded images: what decodes the same everywhere, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from hangul_ocr.data.images import UnreadableImage, check_image, decode_image, decode_trusted, image_size, shrunk


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


def test_large_jpegs_may_come_smaller_and_others_do_not() -> None:
    cases = ((401, 100, 50, (50, 201)), (100, 401, 25, (101, 25)), (400, 99, 50, (99, 400)))
    for width, height, short_side, size in cases:
        data = encoded(photo(width, height), "JPEG")
        assert decode_trusted(data, short_side=short_side).shape[:2] == size
        assert decode_trusted(data).shape[:2] == (height, width)
    assert decode_trusted(encoded(photo(400, 100), "PNG"), short_side=10).shape[:2] == (100, 400)


def test_shrinking_keeps_colours_and_enough_pixels() -> None:
    pixels = np.zeros((200, 600, 3), np.uint8)
    pixels[:, :300], pixels[:, 300:] = (200, 30, 30), (30, 30, 200)
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, quality=95)
        data = shrunk(buffer.getvalue(), 50, 95)
        image = decode_image(data)
        assert (data[:3], image.shape) == (b"\xff\xd8\xff", (50, 150, 3))
        assert np.abs(image[25, 30].astype(int) - (200, 30, 30)).max() < 12
        assert np.abs(image[25, 120].astype(int) - (30, 30, 200)).max() < 12


def test_what_is_too_long_for_a_jpeg_stays_what_it_is() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (70_000, 8)).save(buffer, "PNG")
    assert shrunk(buffer.getvalue(), 8, 95) == buffer.getvalue()


def test_a_header_is_read_as_pillow_reads_it() -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"comment": "글"}, {"optimize": True}):
        buffer = io.BytesIO()
        Image.new("RGB", (123, 45)).save(buffer, "JPEG", **options)
        assert image_size(buffer.getvalue()) == check_image(buffer.getvalue()) == (123, 45)
        assert check_image(buffer.getvalue() + b"trailing bytes") == (123, 45)
        for kept in (0.3, 0.6, 0.95):
            with pytest.raises(UnreadableImage):
                check_image(buffer.getvalue()[: int(kept * len(buffer.getvalue()))])
