"""Synthesis: fonts by outline, words by side, a renderer that is the same everywhere, and the sample competition."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from hangul_ocr.exploration import syllable_coverage
from hangul_ocr.hangul import (
    ASCII,
    Alphabet,
    HangulOcrError,
    is_placeholder,
    is_syllable,
    ksx1001_syllables,
    normalise,
)
from hangul_ocr.synthesis import competition, effects, fonts, phrases
from hangul_ocr.synthesis.competition import make_competition, training_stream_sources
from hangul_ocr.synthesis.fonts import FontFace, family_share, find_fonts, inspect_font, split_families
from hangul_ocr.synthesis.glyphs import GlyphCache
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.stream import drawn_short_side, synthetic_sources
from hangul_ocr.synthesis.style import EFFECTS, Style
from hangul_ocr.synthesis.words import (
    LONGEST,
    TRAINING,
    Mix,
    Side,
    Words,
    WordSource,
    is_held_out,
    load_words,
    words_of,
)


@pytest.fixture(scope="module")
def faces():
    return find_fonts()


@pytest.fixture(scope="module")
def words():
    return load_words()


@pytest.fixture(scope="module")
def source(words):
    return WordSource(words, TRAINING)


@pytest.fixture(scope="module")
def renders(faces, source):
    renderer = Renderer(faces, source, Style.signs(), seed=3)
    return [renderer.render(index) for index in range(300)]


def read_csv(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# Fonts


def _write_font(path, blank=(), syllables=None):
    """Write a font that maps every syllable and draws a square for each but the ``blank`` ones."""
    syllables = syllables or ksx1001_syllables()
    pen = TTGlyphPen(None)
    for move, point in zip([pen.moveTo] + [pen.lineTo] * 3, [(50, 0), (50, 700), (700, 700), (700, 0)], strict=True):
        move(point)
    pen.closePath()
    square, empty = pen.glyph(), TTGlyphPen(None).glyph()
    names = {c: f"g{ord(c):04X}" for c in syllables}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap({ord(c): name for c, name in names.items()})
    builder.setupGlyf({".notdef": square} | {name: empty if c in blank else square for c, name in names.items()})
    builder.setupHorizontalMetrics({name: (900, 50) for name in [".notdef", *names.values()]})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Toy Bold", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_a_mapped_but_blank_glyph_does_not_count(tmp_path):
    (face,) = inspect_font(_write_font(tmp_path / "toy.ttf", blank="각밝힐"))
    assert set(ksx1001_syllables()) - set(face.covers) == set("각밝힐")
    assert (face.family, face.style) == ("Toy", "Bold Regular")


def test_syllables_and_signs_beyond_the_alphabet_are_checked_as_well(tmp_path):
    blank, drawn = "뷁갃", "펲똠①●ㄱ"
    (face,) = inspect_font(_write_font(tmp_path / "toy.ttf", blank, ksx1001_syllables() + blank + drawn))
    assert face.covers == ksx1001_syllables()
    assert set(face.others) == set(drawn)


def test_the_fonts_of_the_machine_draw_more_than_the_alphabet(faces, source):
    renderer = Renderer(faces, source, Style.plain())
    for text in ("뷁", "펲시", "똠방각하", "① 번", "●", "⑳"):
        crop = renderer.render_text(text, np.random.default_rng(0))
        assert np.ptp(crop.image) > 50, text
    assert all(set(face.covers).isdisjoint(face.others) for face in faces)


def test_what_else_a_face_draws_changes_no_crop_of_the_usual_words(faces, words):
    narrow = [replace(face, others="") for face in faces]
    for style in (Style.signs(), Style.training((28, 44))):
        here, there = (Renderer(found, WordSource(words, TRAINING), style, seed=5) for found in (faces, narrow))
        assert all(_digest(here, index) == _digest(there, index) for index in range(40))


def test_a_font_that_draws_little_hangul_is_left_out(tmp_path):
    path = _write_font(tmp_path / "blank.ttf", blank=ksx1001_syllables()[100:])
    assert inspect_font(path) == []


@pytest.mark.parametrize("content", [b"", b"no font at all", b"\x00\x01\x00\x00" + b"\xff" * 200])
def test_a_damaged_font_is_left_out(tmp_path, content):
    path = tmp_path / "broken.ttf"
    path.write_bytes(content)
    assert inspect_font(path) == []


def test_the_second_look_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HANGUL_OCR_CACHE", str(tmp_path / "cache"))
    path = _write_font(tmp_path / "toy.ttf")
    monkeypatch.setattr(fonts, "font_files", lambda: [str(path)])
    first = find_fonts()
    monkeypatch.setattr(fonts, "inspect_font", lambda path: pytest.fail("looked again"))
    assert find_fonts() == first


def test_further_folders_of_fonts_are_named_by_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("HANGUL_OCR_FONTS", os.pathsep.join([str(tmp_path), str(tmp_path / "gone")]))
    (tmp_path / "below").mkdir()
    path = _write_font(tmp_path / "below" / "toy.ttf")
    assert str(path) in fonts.font_files()


def test_packed_fonts_that_cannot_be_unpacked_are_named_and_not_forgotten(tmp_path, monkeypatch, capsys, faces):
    monkeypatch.setenv("HANGUL_OCR_CACHE", str(tmp_path))
    packed = tmp_path / "a.woff2"
    packed.write_bytes(b"wOF2")
    monkeypatch.setattr(fonts, "font_files", lambda: [faces[0].path, str(packed)])
    monkeypatch.setattr(fonts.importlib.util, "find_spec", lambda name: None)
    assert {face.path for face in find_fonts()} == {faces[0].path}
    assert f"1 fonts are not used (first {packed}): pip install brotli" in capsys.readouterr().err
    assert "a.woff2" not in (tmp_path / fonts._CACHE_NAME).read_text(encoding="utf-8")


def test_no_korean_font_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("HANGUL_OCR_CACHE", str(tmp_path))
    monkeypatch.setattr(fonts, "font_files", list)
    with pytest.raises(HangulOcrError, match="koreanize-matplotlib"):
        find_fonts()


def test_the_machine_has_two_families_at_least_and_each_draws_ascii(faces):
    assert len({face.family for face in faces}) >= 2
    assert all(len(set(ASCII) & set(face.covers)) > 90 for face in faces)


def _face(family, style="Regular"):
    return FontFace(f"{family}-{style}.ttf", 0, family, style, "가")


def test_all_weights_of_a_family_are_held_out_together():
    faces = [_face(f"Family {i}", style) for i in range(5) for style in ("Light", "Bold")]
    train, held = split_families(faces, seed=1, n_held_out=2)
    assert not {face.family for face in train} & {face.family for face in held}
    assert (len(train), len(held)) == (6, 4)
    assert split_families(faces, seed=1, n_held_out=2) == (train, held)


def test_every_machine_holds_out_the_same_family_first():
    gothic = [_face("NanumGothic", style) for style in ("Light", "Regular", "Bold", "ExtraBold")]
    train, held = split_families([*gothic, _face("Noto Sans KR"), _face("Noto Serif KR")], seed=7)
    assert [face.family for face in held] == ["Noto Serif KR"]
    more = [*train, *held, _face("Noto Serif CJK KR", "Bold"), _face("Batang"), _face("Jua")]
    assert {face.family for face in split_families(more, seed=1)[1]} == {"Noto Serif KR", "Noto Serif CJK KR"}


def test_after_it_the_smaller_family_of_a_kind_with_others_is_held_out():
    gothic = [_face("NanumGothic", style) for style in ("Light", "Regular", "Bold", "ExtraBold")]
    train, held = split_families([*gothic, _face("Noto Sans KR"), _face("Batang")], seed=7)
    assert [face.family for face in held] == ["Noto Sans KR"]
    assert {face.family for face in train} == {"NanumGothic", "Batang"}


def test_one_family_alone_stays_for_training():
    assert split_families([_face("Only")], seed=0) == ([_face("Only")], [])


def test_two_names_of_one_design_are_one_family():
    train, held = split_families([_face("Noto Sans KR"), _face("Noto Sans CJK KR"), _face("Batang")], seed=0)
    assert {face.family for face in held} in ({"Batang"}, {"Noto Sans KR", "Noto Sans CJK KR"})
    assert {face.family for face in train}.isdisjoint({face.family for face in held})


# Words


def test_labels_have_the_competitions_lengths_and_spaces(words):
    rng = np.random.default_rng(0)
    source = WordSource(words)
    labels = [source.sample(rng) for _ in range(4000)]
    lengths = np.array([len(label) for label in labels])
    assert lengths.max() <= LONGEST
    assert abs((lengths == 1).mean() - 0.059) < 0.015
    assert abs((lengths == 3).mean() - 0.212) < 0.025
    assert abs(np.mean([" " in label for label in labels]) - 0.185) < 0.025
    assert all(label == label.strip() == normalise(label) for label in labels)


def test_every_syllable_of_ks_x_1001_is_reachable(words):
    rng = np.random.default_rng(0)
    source = WordSource(words, Mix(syllables=0.5))
    seen = set().union(*(source.sample(rng) for _ in range(16_000)))
    assert set(ksx1001_syllables()) <= seen


@pytest.mark.parametrize(("mix", "checksum"), [(Mix(), 2593565548), (TRAINING, 3501361129)])
def test_a_seed_draws_the_labels_that_it_always_drew(mix, checksum):
    nouns = tuple(a + b for a in "가나다라마바사" for b in "각난닫랄맘")
    source = WordSource(Words({"noun": nouns}, verbs=("먹는", "갑니다"), latin=("cafe",)), mix, Side(0.2, 0))
    rng = np.random.default_rng(0)
    labels = "\n".join(source.sample(rng) for _ in range(2000))
    assert zlib.crc32(labels.encode()) == checksum


def test_random_syllables_of_all_11172_are_drawn_where_they_are_asked_for(words):
    rng = np.random.default_rng(0)
    source = WordSource(words, Mix(all_syllables=1.0))
    seen = set().union(*(source.sample(rng) for _ in range(3000))) - {" "}
    assert all(map(is_syllable, seen))
    assert len(seen) > 5000
    assert Mix().all_syllables == TRAINING.all_syllables == 0.0


def test_extra_characters_stand_in_words_and_none_change_nothing(words):
    for side in (None, Side(0.5, 3)):
        plain = WordSource(words, TRAINING, side)
        assert [plain.with_extra("").sample(np.random.default_rng(i)) for i in range(300)] == [
            plain.sample(np.random.default_rng(i)) for i in range(300)
        ]
        source, rng = plain.with_extra("뷁똠①"), np.random.default_rng(0)
        labels = [source.sample(rng) for _ in range(6000)]
        with_extra = [label for label in labels if set(label) & set("뷁똠①")]
        assert 0.001 < len(with_extra) / len(labels) < 0.006
        assert any(len(label) > 2 for label in with_extra)
        assert side is None or all(map(side.allows, with_extra))
        assert plain.with_extra(ksx1001_syllables()).mix.extra == 0.05


def test_without_any_dictionary_there_are_still_labels():
    rng = np.random.default_rng(0)
    assert all(WordSource(Words({})).sample(rng) for _ in range(200))


def test_words_are_split_by_the_word_alone():
    words = ["가게", "나무", "다리", "라면", "마음", "바다", "사람", "아침", "자전거", "차"]
    held = [word for word in words if is_held_out(word, 0.5, seed=1)]
    assert 0 < len(held) < len(words)
    assert held == [word for word in words if is_held_out(word, 0.5, seed=1)]
    assert held != [word for word in words if is_held_out(word, 0.5, seed=2)]


def test_both_words_of_a_label_lie_on_the_same_side(words):
    rng = np.random.default_rng(0)
    train, test = (
        {word for _ in range(1500) for word in words_of(source.sample(rng))}
        for source in (WordSource(words, TRAINING, Side(0.2, 5)), WordSource(words, side=Side(0.2, 5, test=True)))
    )
    assert train.isdisjoint(test)


@pytest.mark.parametrize(
    ("noun", "forms"),
    [
        ("책", {"책은", "책이", "책을", "책과", "책으로", "책이나", "책이라"}),
        ("나무", {"나무는", "나무가", "나무를", "나무와", "나무로", "나무나", "나무라"}),
        ("서울", {"서울은", "서울이", "서울을", "서울과", "서울로", "서울이나", "서울이라"}),
    ],
)
def test_particles_follow_the_final_consonant(noun, forms):
    rng = np.random.default_rng(0)
    found = {phrases.with_particle(noun, rng) for _ in range(400)}
    assert forms <= found
    assert found - forms == {noun + particle for particle in phrases.FIXED_PARTICLES}


def test_phrases_take_their_nouns_from_the_source_and_keep_near_their_length():
    rng = np.random.default_rng(0)
    asked = []

    def noun(length, rng):
        asked.append(length)
        return "책" * length

    for length in (3, 8, 18):
        found = [phrases.phrase(length, noun, ["먹는"], ["cafe"], rng) for _ in range(200)]
        assert abs(np.mean([len(text) for text in found]) - length) < 4
        assert all(text == text.strip() for text in found)
    assert min(asked) >= 1
    assert "책" in "".join(found)


def test_signs_name_shops_roads_dishes_and_books_with_the_sources_nouns():
    rng = np.random.default_rng(0)
    found = {phrases.sign(lambda length, rng: "책" * length, rng) for _ in range(6000)}
    for kinds in (phrases.TRADES, phrases.ROADS, phrases.DISHES):
        assert all(any(kind in text for text in found) for kind in kinds)
    assert {form.format("책책", "책책") for form in phrases.TITLES} <= found
    assert all("책" in text and text == text.strip() and len(text) <= LONGEST for text in found)
    assert not Alphabet.for_texts().missing("".join(found))


def test_labels_name_what_goods_say_with_the_sources_nouns():
    rng = np.random.default_rng(0)
    found = {phrases.label(lambda length, rng: "책" * length, rng) for _ in range(6000)}
    assert {form.format("책책") for form in phrases.ADVICE} <= found
    assert {re.split("[: ]", text)[0] for text in found} >= set(phrases.KEYS)
    assert {"(주)책책", "책책(주)", "주식회사 책책"} <= found
    assert sum(bool(re.fullmatch(r"([A-Z]{1,4}-?[0-9]{1,3}-?){2,}", text)) for text in found) > 100
    assert sum(bool(re.search(r"[0-9]\([0-9]+\)", text)) for text in found) > 30
    assert not Alphabet.for_texts().missing("".join(found))


@pytest.mark.parametrize("make", [phrases.number, lambda rng: phrases.latin(["cafe", "open"], rng)])
def test_numbers_and_latin_words_are_written_with_the_default_alphabet(make):
    rng, alphabet = np.random.default_rng(0), Alphabet.for_texts()
    found = {make(rng) for _ in range(800)}
    assert len(found) > 100 if make is phrases.number else "CAFE" in found
    assert not {text for text in found if alphabet.missing(text) or text != text.strip()}


def test_labels_that_no_font_draws_whole_are_drawn_again(faces):
    """The faces of one package have few signs; a stream must not end at the first of them."""
    few = [replace(faces[0], covers="".join(c for c in faces[0].covers if is_syllable(c)))]
    renderer = Renderer(few, WordSource(Words({}), TRAINING), Style.plain())
    assert all(set(renderer.render(index).text) <= {*few[0].covers, " "} for index in range(40))


def test_a_letter_spaced_label_is_one_word():
    assert words_of("가 나 다") == ["가나다"]
    assert words_of("서울 역") == ["서울", "역"]


# Renderer


def _digest(renderer, index):
    crop = renderer.render(index)
    return crop.image.tobytes(), crop.text, crop.centres.tobytes()


def test_a_crop_depends_on_seed_and_index_alone_in_any_process(faces, words):
    renderer = Renderer(faces, WordSource(Words({}), TRAINING), Style.signs(), seed=11)
    here = [_digest(renderer, index) for index in (5, 0, 5, 17)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = [pool.submit(_digest, renderer, index).result() for index in (17, 5, 0)]
    assert here[0] == here[2] == there[1]
    assert here[1] == there[2]
    assert here[3] == there[0]
    assert len({digest[0] for digest in here}) == 3


def test_a_pickled_renderer_leaves_its_glyphs_behind(faces):
    renderer = Renderer(faces, WordSource(Words({})), Style.plain())
    before = _digest(renderer, 1)
    assert _digest(pickle.loads(pickle.dumps(renderer)), 1) == before


def test_images_are_rgb_and_never_blank(renders):
    for crop in renders:
        assert crop.image.dtype == np.uint8
        assert crop.image.ndim == 3
        assert crop.image.shape[2] == 3
        grey = cv2.GaussianBlur(cv2.cvtColor(crop.image, cv2.COLOR_RGB2GRAY), (3, 3), 0)
        assert float(np.percentile(grey, 99)) - float(np.percentile(grey, 1)) > 25, crop.text


def test_centres_run_through_the_crop_in_reading_order(renders):
    for crop in renders:
        assert crop.centres.shape == (len(crop.text), 2)
        assert ((crop.centres >= 0) & (crop.centres <= 1)).all()
        assert (np.diff(crop.centres[:, int(crop.vertical)]) > 0).all(), crop.text


def test_ink_lies_at_the_centres(faces):
    style = Style.plain((48, 48))
    renderer = Renderer(faces, WordSource(Words({})), style)
    crop = renderer.render_text("를 를", np.random.default_rng(0), vertical=False)
    height, width = crop.image.shape[:2]
    edges = np.abs(np.diff(crop.image.astype(int).sum(2), axis=0))
    windows = [edges[:, max(0, int(x * width) - 4) : int(x * width) + 4] for x, _ in crop.centres]
    ink = [window.max(initial=0) for window in windows]
    assert height == 48
    assert ink[0] > 100
    assert ink[2] > 100
    assert ink[1] < 20


def test_vertical_text_gives_tall_crops(faces, source):
    renderer = Renderer(faces, source, Style.signs())
    for index, text in enumerate(["가나다", "대한민국", "서울 식당"]):
        crop = renderer.render_text(text, np.random.default_rng(index), vertical=True)
        assert crop.vertical
        assert crop.image.shape[0] > crop.image.shape[1]


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_changes_the_crop_and_leaves_it_legible(faces, effect):
    calm, changed = Style.plain((40, 40)), Style.plain((40, 40)).only(effect)
    different = 0
    for index in range(6):
        crops = [
            Renderer(faces, WordSource(Words({})), style).render_text("대한 식당", np.random.default_rng(index), False)
            for style in (calm, changed)
        ]
        assert float(np.ptp(cv2.blur(cv2.cvtColor(crops[1].image, cv2.COLOR_RGB2GRAY), (3, 3)))) > 30
        different += crops[0].image.shape != crops[1].image.shape or (crops[0].image != crops[1].image).any()
    assert different >= 3


@pytest.mark.parametrize("angle", [0.3, 1.2, -0.3, -1.2])
def test_bent_text_keeps_its_centres_on_its_ink(angle):
    mask = np.zeros((80, 360), np.uint8)
    points = np.float32([[60, 40], [120, 32], [180, 40], [240, 48], [300, 40]])
    for x, y in points.astype(int).tolist():
        cv2.circle(mask, (x, y), 6, 255, -1)
    bent, moved, (x0, y0, x1, y1) = effects.bent(mask, points, 20, angle)
    assert (x0, y0) == (20, 20)
    assert bent.shape == (y1 + 20, x1 + 20)
    for x, y in moved.tolist():
        assert bent[round(y), round(x)] > 200
    assert (moved[2, 1] < moved[0, 1]) == (angle > 0)
    rows, columns = np.nonzero(bent)
    assert rows.min() >= y0
    assert rows.max() <= y1
    assert columns.min() >= x0
    assert columns.max() <= x1


@pytest.mark.parametrize("size", [48, 96])
@pytest.mark.parametrize("width", [0.03, 0.045, 0.06, 0.1])
def test_dots_keep_every_stroke_of_a_thin_face(size, width):
    """Upright and level strokes of this width in ems, at every place between the dots."""
    mask = np.zeros((2 * size, 8 * size), np.uint8)
    thick, starts = max(1, round(width * size)), range(size // 4, 7 * size, size // 4 + 1)
    for start in starts:
        mask[size // 4 : 3 * size // 4, start : start + thick] = 255
    for start in range(size, 2 * size - size // 4, size // 4 + 1):
        mask[start : start + thick, size // 4 : -size // 4] = 255
    for seed in range(20):
        dots = effects.dotted(np.random.default_rng(seed), mask, size)
        far = cv2.distanceTransform((dots < 60).astype(np.uint8), cv2.DIST_L2, 5) > 0.08 * size
        assert far[mask > 127].mean() < 0.01, seed


def test_two_lines_are_cut_at_a_space_and_read_from_the_upper(faces):
    style = replace(Style.plain((64, 64)), two_lines=1.0)
    renderer = Renderer(faces, WordSource(Words({})), style)
    crop = renderer.render_text("서울 특별시 중구", np.random.default_rng(0), vertical=False)
    upper, lower = crop.centres[:6], crop.centres[7:]
    assert upper[:, 1].max() < lower[:, 1].min()
    assert lower[0, 0] < upper[5, 0]
    alone = renderer.render_text("서울특별시", np.random.default_rng(0), vertical=False)
    assert np.ptp(alone.centres[:, 1]) < 0.2


def test_two_lines_are_an_effect_that_no_style_has_of_itself():
    assert "two_lines" in EFFECTS
    styles = (Style(), Style.plain(), Style.signs(), Style.training((28, 44)), Style.signs().calmer())
    assert [style.two_lines for style in styles] == [0.0] * 5
    assert Style.plain().only("two_lines").two_lines == 1.0


def test_faces_that_signs_use_are_drawn_more_often():
    assert family_share("BM DoHyeon") > family_share("Noto Serif KR") > family_share("NanumGothicCoding")


def test_about_a_sixth_of_the_crops_is_tall(renders):
    assert 0.09 < np.mean([crop.image.shape[0] > crop.image.shape[1] for crop in renders]) < 0.25


def test_the_short_side_is_as_asked(faces, source):
    renderer = Renderer(faces, source, Style.signs((32, 40)))
    sides = [min(renderer.render(index).image.shape[:2]) for index in range(60)]
    assert max(sides) <= 40
    assert np.mean([side >= 32 for side in sides]) > 0.9


def test_a_character_without_a_font_is_named(faces, source):
    with pytest.raises(HangulOcrError, match="no font draws"):
        Renderer(faces, source, Style.plain()).render_text("\u0e01", np.random.default_rng(0))


def test_a_space_alone_cannot_be_rendered(faces, source):
    with pytest.raises(HangulOcrError, match="nothing to draw"):
        Renderer(faces, source, Style.plain()).render_text(" ", np.random.default_rng(0))


def test_glyphs_are_kept_up_to_so_many_pixels(faces):
    cache = GlyphCache(faces, limit=4000)
    first = [cache.get(0, 48, character) for character in "가나"]
    assert [cache.get(0, 48, character) for character in "가나"] == first
    assert sum(glyph.alpha.size for glyph in first) <= 4000
    for character in "다라마바사":
        cache.get(0, 48, character)
    assert sum(glyph.alpha.size for glyph in cache._glyphs.values()) == cache._kept <= 4000
    assert cache.get(0, 48, "사") is cache.get(0, 48, "사")
    assert cache.get(0, 48, "가") is not first[0]
    assert np.array_equal(cache.get(0, 48, "가").alpha, first[0].alpha)


# Streams


def _texts_and_images(crops, count):
    rng = np.random.default_rng(0)
    found = [crops.crop(index, rng) for index in range(count)]
    return [(crop.text, crop.image.tobytes()) for crop in found]


def test_a_stream_s_crops_are_as_high_as_the_network_takes_them():
    assert [drawn_short_side(network) for network in (16, 32, 48)] == [(28, 44), (28, 44), (28, 66)]
    stream, _ = synthetic_sources(None, 3, short_side=drawn_short_side(48))
    sides = [min(stream.crop(index, None).image.shape[:2]) for index in range(60)]
    assert 60 < max(sides) <= 66
    assert min(sides) < 34


def test_a_stream_draws_what_the_run_s_alphabet_has_beside_the_default_one(capsys):
    plain, validation = synthetic_sources(None, 3, validation=10)
    default, _ = synthetic_sources(None, 3, characters=Alphabet.for_texts().characters)
    assert _texts_and_images(default, 40) == _texts_and_images(plain, 40)
    assert capsys.readouterr().err == ""

    extra = "".join(c for c in map(chr, range(0xAC00, 0xAC80)) if c not in ksx1001_syllables())
    more, checked = synthetic_sources(None, 3, 10, characters=Alphabet.for_texts([extra, "\u0e01"]).characters)
    words, rng = more.renderer.words, np.random.default_rng(0)
    assert words.extra == extra
    assert sum(bool(set(words.sample(rng)) & set(extra)) for _ in range(1000)) > 20
    text = next(text for text in (words.sample(rng) for _ in range(1000)) if set(text) & set(extra))
    assert more.renderer.render_text(text, rng).text == text
    assert "no font here draws 1 characters of the alphabet (\u0e01)" in capsys.readouterr().err
    assert _texts_and_images(checked, 10) == _texts_and_images(validation, 10)


# The sample competition


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_competition(tmp_path_factory.mktemp("sample") / "대회", n_train=300, n_test=90, seed=4)


def test_tables_are_the_competitions(folder):
    for name, header in (("train", b"img_path,text"), ("test", b"img_path"), ("sample_submission", b"img_path,text")):
        first = (folder / f"{name}.csv").read_bytes().splitlines()[0]
        assert first == b"\xef\xbb\xbf" + header
    test, template = read_csv(folder / "test.csv"), read_csv(folder / "sample_submission.csv")
    assert [row["img_path"] for row in test] == [row["img_path"] for row in template]
    assert all(row["text"] == "" for row in template)


def test_numbers_have_gaps_and_every_path_is_an_rgb_png(folder):
    for name, n in (("train", 300), ("test", 90)):
        paths = [row["img_path"] for row in read_csv(folder / f"{name}.csv")]
        numbers = [int(path.removeprefix(f"./{name}/{name}_").removesuffix(".png")) for path in paths]
        assert numbers == sorted(set(numbers))
        assert (len(numbers), numbers[0], numbers[-1]) == (n, 1, n + 2)
        assert sorted(path.name for path in (folder / name).iterdir()) == [path.split("/")[-1] for path in paths]
        data = (folder / paths[0]).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[2] == 3


def test_training_labels_hold_placeholders_spaces_and_repeats(folder):
    texts = [row["text"] for row in read_csv(folder / "train.csv")]
    assert 1 <= sum(map(is_placeholder, texts)) <= 3
    assert 0.1 < np.mean([" " in text for text in texts]) < 0.28
    assert max(map(texts.count, texts)) >= 3


def test_no_test_word_and_no_held_out_family_in_training(folder, faces):
    train = {word for row in read_csv(folder / "train.csv") for word in words_of(row["text"])}
    answers = read_csv(folder / "answers" / "test_answers.csv")
    assert train.isdisjoint(word for row in answers for word in words_of(row["text"]))
    held = set(json.loads((folder / "competition.json").read_text(encoding="utf-8"))["held_out_families"])
    assert held == {row["family"] for row in answers if row["held_out"] == "1"}
    assert held.isdisjoint(row["family"] for row in answers if row["held_out"] == "0")
    assert 0.2 < np.mean([row["held_out"] == "1" for row in answers]) < 0.47


def test_pretraining_leaves_out_what_the_test_holds(folder, faces):
    stream_faces, source = training_stream_sources(folder)
    answers = read_csv(folder / "answers" / "test_answers.csv")
    assert {face.family for face in stream_faces}.isdisjoint(r["family"] for r in answers if r["held_out"] == "1")
    rng = np.random.default_rng(0)
    drawn = {word for _ in range(3000) for word in words_of(source.sample(rng))}
    assert drawn.isdisjoint(word for row in answers for word in words_of(row["text"]))


def test_beside_a_real_competition_nothing_is_left_out(tmp_path, faces):
    for folder in (None, tmp_path):
        stream_faces, source = training_stream_sources(folder)
        assert stream_faces == faces
        assert source.side is None


def test_equal_seeds_give_equal_folders(tmp_path):
    first, second, other = (
        make_competition(tmp_path / name, n_train=20, n_test=6, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
    assert (first / "train.csv").read_bytes() != (other / "train.csv").read_bytes()


def test_the_sample_does_not_depend_on_what_else_a_face_draws(tmp_path, monkeypatch, faces):
    usual = make_competition(tmp_path / "usual", n_train=24, n_test=12, seed=0)
    monkeypatch.setattr(competition, "find_fonts", lambda: [replace(face, others="") for face in faces])
    narrow = make_competition(tmp_path / "narrow", n_train=24, n_test=12, seed=0)
    files = [path.relative_to(usual) for path in usual.rglob("*") if path.is_file()]
    assert len(files) > 36
    assert all((usual / path).read_bytes() == (narrow / path).read_bytes() for path in files)


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(HangulOcrError, match="not empty"):
        make_competition(tmp_path, n_train=4, n_test=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_no_half_written_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(competition, "_write_tables", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(HangulOcrError, match="disk full"):
        make_competition(tmp_path / "sample", n_train=4, n_test=2)
    assert list(tmp_path.iterdir()) == []


def test_coverage_counts_the_syllables_that_a_source_has_shown(words):
    source = WordSource(words, TRAINING)
    table = syllable_coverage(source, seed=3, counts=(300, 50))
    assert table.index.tolist() == ["50", "300"]
    rng, seen = np.random.default_rng(3), set()
    for _ in range(300):
        seen |= set(source.sample(rng)) & set(ksx1001_syllables())
    assert table.loc["300", ["syllables", "missing"]].tolist() == [f"{len(seen):,}", 2350 - len(seen)]
    assert not seen.intersection(table.loc["300", "such as"].split())
