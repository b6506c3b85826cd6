"""Words cut out of photographs: sizes, orientations, reduced decoding, tilted boxes, and boxes that are no use."""

from __future__ import annotations

import io
import json
import math
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_sets import BLUE, GREEN, NO_MARGIN, RED, YELLOW, is_of_colour, jpeg, photograph, reasons, size_of, write
from PIL import Image, ImageOps

from hangul_ocr.data import cropping
from hangul_ocr.data.archives import scan
from hangul_ocr.data.cropping import BadBox, Photograph, Region, parse_box, quad_of_characters, rectangle
from hangul_ocr.data.images import is_whole_jpeg
from hangul_ocr.data.planning import ImportSettings
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.hangul import HangulOcrError


def cut(tmp_path: Path, data: bytes, *regions: Region, settings: ImportSettings = NO_MARGIN, **options: object) -> list:
    (file,) = scan([write(tmp_path / "photo.jpg", data)]).files
    return list(Photograph(file, regions, "test", "photo", **options).samples(settings))


def region(*box: float, text: str = "가나", turns: int = 0) -> Region:
    return Region("photo#1", text, rectangle(*box), turns=turns)


def test_the_crop_is_what_the_box_holds(tmp_path: Path) -> None:
    data = photograph(patches={(50, 60, 90, 40): RED})
    (sample,) = cut(tmp_path, data, region(50, 60, 90, 40), facts={"class": "간판"})
    assert isinstance(sample, Sample)
    assert size_of(sample.image) == (90, 40)
    assert is_of_colour(sample.image, RED)
    assert (sample.group, sample.source, sample.text) == ("photo", "test", "가나")
    assert sample.facts == {"class": "간판", "photograph": "photo.jpg"}


def test_margin_is_a_share_of_the_short_side_and_stays_in_the_image(tmp_path: Path) -> None:
    settings = ImportSettings(margin=0.25)
    (inside,) = cut(tmp_path, photograph(), region(50, 60, 90, 40), settings=settings)
    (corner,) = cut(tmp_path, photograph(), region(0, 0, 90, 40), settings=settings)
    assert (size_of(inside.image), size_of(corner.image)) == ((110, 60), (100, 50))


def test_boxes_that_leave_the_image_are_cut_off_or_left_out(tmp_path: Path) -> None:
    regions = [region(-20, -10, 90, 40), region(-70, 10, 90, 40), region(900, 900, 10, 10), region(1e300, 0, 1e300, 5)]
    first, *others = cut(tmp_path, photograph(), *regions)
    assert size_of(first.image) == (70, 30)
    assert reasons(others) == {"box outside the image": 3}


def test_boxes_too_small_and_labels_that_are_none(tmp_path: Path) -> None:
    items = cut(
        tmp_path, photograph(), region(5, 5, 90, 3), region(5, 5, 9, 9, text="XXX"), region(1, 1, 9, 9, text="")
    )
    assert reasons(items) == {"box too small": 1, "placeholder label": 1, "empty label": 1}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("annotated", ["upright", "stored"])
def test_exif_orientation_whichever_size_is_declared(tmp_path: Path, orientation: int, annotated: str) -> None:
    stored_box = (40, 20, 120, 60)
    stored = photograph(400, 300, {stored_box: RED}, orientation)
    turned = Image.fromarray(np.zeros((300, 400), np.uint8))
    turned.paste(255, (40, 20, 160, 80))
    turned.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(turned))
    ys, xs = np.nonzero(upright)
    upright_box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
    size = upright.shape[::-1]
    if annotated == "stored" and size != (400, 300):
        box, size = stored_box, (400, 300)
    else:
        box = upright_box
    (sample,) = cut(tmp_path, stored, region(*map(float, box)), declared=size)
    assert size_of(sample.image) == tuple(int(n) for n in upright_box[2:])
    assert is_of_colour(sample.image, RED)


def test_a_size_that_nothing_explains_is_a_mismatch(tmp_path: Path) -> None:
    items = cut(tmp_path, photograph(), region(5, 5, 90, 30), region(9, 9, 90, 30), declared=(800, 600))
    assert reasons(items) == {"size mismatch": 2}
    assert items[0].detail == "400 x 300 pixels, declared 800 x 600"
    assert reasons(cut(tmp_path, photograph(), region(5, 5, 90, 30), declared=(300, 400))) == {"size mismatch": 1}


def test_a_swapped_size_is_turned_clockwise_where_a_set_says_so(tmp_path: Path) -> None:
    # What lies at the bottom left is at the top left once the photograph is turned clockwise.
    data = photograph(400, 300, {(0, 200, 60, 100): RED})
    (sample,) = cut(tmp_path, data, region(0, 0, 100, 60), declared=(300, 400), turned_if_swapped=True)
    assert size_of(sample.image) == (100, 60)
    assert is_of_colour(sample.image, RED)


def test_large_crops_are_halved_and_the_photograph_is_decoded_once_at_that_size(tmp_path: Path, monkeypatch) -> None:
    flags = []
    real = cv2.imdecode
    monkeypatch.setattr(cropping.cv2, "imdecode", lambda data, flag: (flags.append(flag), real(data, flag))[1])
    data = photograph(1600, 1200, {(100, 100, 900, 400): RED, (1100, 100, 400, 400): BLUE, (9, 9, 40, 30): GREEN})
    large, square = region(100, 100, 900, 400), region(1100, 100, 400, 400)
    first, second = cut(tmp_path, data, large, square)
    assert (size_of(first.image), size_of(second.image)) == ((225, 100), (100, 100))
    assert is_of_colour(first.image, RED)
    assert is_of_colour(second.image, BLUE)
    assert flags == [cv2.IMREAD_REDUCED_COLOR_4]
    # A small neighbour needs all pixels; the large ones come out at the same size.
    first, small = cut(tmp_path, data, large, region(9, 9, 40, 30))
    assert (size_of(first.image), size_of(small.image)) == ((225, 100), (40, 30))
    assert flags[1:] == [cv2.IMREAD_COLOR]


def test_tilted_boxes_are_straightened(tmp_path: Path) -> None:
    pixels = np.full((300, 400, 3), 128, np.uint8)
    corners = cv2.boxPoints(((200, 150), (200, 50), 30)).astype(np.int32)
    cv2.fillConvexPoly(pixels, corners, RED)
    quad = parse_box(corners.tolist())
    (sample,) = cut(tmp_path, jpeg(pixels), Region("a", "가", quad))
    width, height = size_of(sample.image)
    assert abs(width - 200) < 3
    assert abs(height - 50) < 3
    assert is_of_colour(sample.image, RED)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_crops_are_turned(tmp_path: Path, turns: int) -> None:
    data = photograph(patches={(50, 60, 45, 40): RED, (95, 60, 45, 40): BLUE})
    (sample,) = cut(tmp_path, data, region(50, 60, 90, 40, turns=turns))
    (plain,) = cut(tmp_path, data, region(50, 60, 90, 40))
    expected = np.rot90(np.asarray(Image.open(io.BytesIO(plain.image))), -turns)
    found = np.asarray(Image.open(io.BytesIO(sample.image)))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_are_cut_at_full_size(tmp_path: Path, kind: str) -> None:
    pixels = np.full((600, 800, 3), 128, np.uint8)
    pixels[100:500, 100:700] = YELLOW
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    (sample,) = cut(tmp_path, buffer.getvalue(), region(100, 100, 600, 400))
    assert size_of(sample.image) == (150, 100)
    assert is_of_colour(sample.image, YELLOW)


def _grey_png(width: int, height: int) -> bytes:
    return cv2.imencode(".png", np.full((height, width), 128, np.uint8))[1].tobytes()


def test_a_crop_longer_than_any_jpeg_is_left_out(tmp_path: Path) -> None:
    items = cut(tmp_path, _grey_png(70_000, 50), region(0, 0, 70_000, 50), region(0, 0, 65_500, 50))
    assert reasons(items[:1]) == {"crop too long": 1}
    assert size_of(items[1].image) == (65_500, 50)


def test_tilted_boxes_in_a_photograph_longer_than_opencv_straightens(tmp_path: Path) -> None:
    pixels = np.full((1000, 40_000, 3), 128, np.uint8)
    corners = cv2.boxPoints(((39_800, 500), (200, 50), 30)).astype(np.int32)
    cv2.fillConvexPoly(pixels, corners, RED[::-1])
    whole = Region("b", "나", np.array([[0, 0], [39_000, 300], [38_990, 400], [0, 100]], float))
    small = Region("a", "가", parse_box(corners.tolist()))
    kept, lost = cut(tmp_path, cv2.imencode(".png", pixels)[1].tobytes(), small, whole)
    assert is_of_colour(kept.image, RED)
    assert abs(size_of(kept.image)[0] - 200) < 3
    assert (lost.reason, lost.detail) == ("crop too long", "39001 pixels")


def test_photographs_that_cannot_be_read(tmp_path: Path) -> None:
    whole = photograph(1600, 1200)
    bomb = bytearray(whole)
    place = whole.index(b"\xff\xc0")
    bomb[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    for data in (b"", b"no image", whole[: len(whole) // 2], whole[:-2][: len(whole) - 400], bytes(bomb)):
        items = cut(tmp_path, data, region(5, 5, 90, 30), region(50, 50, 90, 30))
        assert reasons(items) == {"unreadable image": 2}
    assert "too many pixels" in items[0].detail


def test_the_end_of_an_embedded_preview_is_not_the_photographs() -> None:
    preview, whole = photograph(40, 30), photograph()
    marker = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    with_preview = whole[:2] + marker + whole[2:]
    assert is_whole_jpeg(whole)
    assert is_whole_jpeg(with_preview)
    assert is_whole_jpeg(whole + b"\0" * 50)
    assert not is_whole_jpeg(with_preview[:-200])
    assert not is_whole_jpeg(b"\xff\xd8\xff")


def test_a_photograph_is_sent_to_another_process(tmp_path: Path) -> None:
    (file,) = scan([write(tmp_path / "photo.jpg", photograph())]).files
    work = pickle.loads(pickle.dumps(Photograph(file, [region(5, 5, 90, 30)], "test", "photo", (400, 300))))
    assert [type(item) for item in work.samples(NO_MARGIN)] == [Sample]


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"margin": -1}, {"quality": 0}, {"short_side": 1}, {"margin": math.nan}):
        with pytest.raises(HangulOcrError, match=f"{next(iter(wrong))} "):
            ImportSettings(**wrong)


# --- boxes as they are written --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [10, 20, 30, 40],
        [10.0, "20", 30, 40],
        "[10, 20, 30, 40]",
        [[10, 20], [40, 20], [40, 60], [10, 60]],
        [[40, 60], [10, 60], [10, 20], [40, 20]],
        [[10, 20], [10, 60], [40, 60], [40, 20]],
        "[[10, 20], [40, 20], [40, 60], [10, 60]]",
        [10, 20, 40, 20, 40, 60, 10, 60],
    ],
)
def test_every_form_of_a_box(value: object) -> None:
    assert parse_box(value).tolist() == [[10, 20], [40, 20], [40, 60], [10, 60]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no box"),
        ([None] * 4, "no box"),
        ([[None, None]] * 4, "no box"),
        ("[null, null, null, null]", "no box"),
        ("nonsense", "no box"),
        ("[" * 100_000, "no box"),
        ([1, 2, 3], "no box"),
        ([1, 2, 3, math.inf], "no box"),
        ([1, 2, 3, 10**400], "no box"),
        ([1e308, 1, 1e308, 40], "box outside the image"),
        ([[1e200, 0], [1e200, 5], [3, 1e200], [0, 1]], "box outside the image"),
        ([1, 1, 2_000_000, 40], "box outside the image"),
        ([1, 2, 3, True], "no box"),
        ({"x": 1}, "no box"),
        ([[1, 2], 3, 4, 5], "no box"),
        ([1, 2, 0, 4], "box without size"),
        ([1, 2, -30, 40], "box without size"),
        ([[5, 5]] * 4, "box without size"),
    ],
)
def test_boxes_that_say_no_place(value: object, reason: str) -> None:
    with pytest.raises(BadBox, match=f"^{reason}$"):
        parse_box(value)


def test_a_tilted_box_begins_at_its_top_left_wherever_it_was_begun() -> None:
    quad = np.array([[10, 20], [90, 50], [80, 80], [0, 50]])
    for begin in range(4):
        assert parse_box(np.roll(quad, begin, axis=0).tolist()).tolist() == quad.tolist()
        # Some annotators go round the other way.
        assert parse_box(np.roll(quad[::-1], begin, axis=0).tolist()).tolist() == quad.tolist()
    crossed = [[0, 0], [40, 30], [40, 0], [0, 35]]
    assert parse_box(json.loads(json.dumps(crossed))).tolist() == rectangle(0, 0, 40, 35).tolist()


@pytest.mark.parametrize("degrees", [-60, -30, 20, 40, 70, 110, 160, -120])
def test_a_tilted_word_is_rebuilt_from_its_characters(degrees: float) -> None:
    angle = math.radians(degrees)
    direction = np.array([math.cos(angle), math.sin(angle)])
    side = 30 * (abs(direction[0]) + abs(direction[1]))
    centres = [np.array([200, 200]) + 40 * i * direction for i in range(3)]
    boxes = np.array([[*(centre - side / 2), side, side] for centre in centres])
    quad = quad_of_characters(boxes)
    right = (quad[1] - quad[0]) / np.linalg.norm(quad[1] - quad[0])
    stacked = 45 < degrees < 135
    expected = np.array([direction[1], -direction[0]]) if stacked else direction
    assert np.allclose(right, expected)
    sides = sorted((np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[3] - quad[0])))
    assert np.allclose(sides, [30, 110])


def test_level_and_stacked_words_keep_their_own_box() -> None:
    assert quad_of_characters(np.array([[0, 0, 30, 30], [35, 2, 30, 30]])) is None
    assert quad_of_characters(np.array([[0, 0, 30, 30], [1, 35, 30, 30]])) is None
    assert quad_of_characters(np.array([[0, 0, 30, 30]])) is None
    assert quad_of_characters(np.array([[0, 0, 86, 86], [90, 60, 11, 26]])) is None  # a comma
    assert quad_of_characters(np.array([[0, 0, 40, 40], [44, 0, 6, 10]])) is None  # a quotation mark
    assert quad_of_characters(np.array([[0, 0, 30, 30], [0, 0, 30, 30]])) is None


def test_left_out_is_all_that_remains_without_regions(tmp_path: Path) -> None:
    assert cut(tmp_path, b"") == []
    assert all(isinstance(item, LeftOut) for item in cut(tmp_path, b"", region(1, 1, 9, 9)))
