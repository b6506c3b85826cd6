"""Figures: Hangul is drawn and not boxed, nothing is empty, and a file is written whole or not at all."""

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from hangul_ocr.evaluation import errors, pictures, plots, slices, style
from hangul_ocr.evaluation.alignment import Alignment
from hangul_ocr.evaluation.comparison import compare_runs
from hangul_ocr.hangul import HangulOcrError

TEXTS = ["가게", "나무 집", "한글", "$5 뷁 $7", "서울역", "똠"] * 6
READ = ["가게", "나무집", "힌글", "$5 뷁 $7", "서울억", "똔"] * 6
CROP = np.full((20, 60, 3), 200, np.uint8)
TALL = np.full((60, 20), 100, np.uint8)
FRAME = errors.error_frame(
    pd.DataFrame({"text": TEXTS, "prediction": READ, "confidence": np.linspace(0.1, 1, 36), "fold": [0, 1, 2] * 12})
)
CURVES = pd.DataFrame(
    {
        "step": [1, 2, 3],
        "train_loss": [3.0, 2.0, 1.0],
        "valid_loss": ["", "2.5", "1.5"],
        "valid_accuracy": [0, 0.5, 0.9],
    }
)
LOG = pd.DataFrame({"run": ["첫째", "b"], "cv": ["0.8", "0.9"], "public_score": ["0.79", ""]})
MEMBERS = pd.DataFrame({"name": ["fold 0", "투표"], "accuracy": [0.8, 0.9], "kind": ["member", "ensemble"]})
OTHER = FRAME.assign(
    prediction=["가게", "나무 집", "힌글", "$5 뷁 7", "서울역", "똔"] * 6, img_path=[str(i) for i in range(36)]
)
PAIRS = errors.confused_pairs(TEXTS, READ, None)
KINDS = errors.kind_table(FRAME), errors.inserted_and_deleted(TEXTS, READ, None), errors.jamo_confusions(TEXTS, READ)


def _compared(second: pd.DataFrame = OTHER):
    return compare_runs(FRAME.assign(img_path=OTHER["img_path"]), second, ("첫째", "second"))


FIGURES = {
    "label_lengths": lambda: plots.label_lengths(TEXTS),
    "character_frequencies": lambda: plots.character_frequencies(TEXTS),
    "shapes": lambda: plots.shapes([20, 60, 300, 40], [60, 60, 40, 41]),
    "image_wall": lambda: plots.image_wall(
        [CROP, TALL, CROP], ["한글", "간판", "아주 긴 상호를 가진 가게 이름표"], [True, False, True]
    ),
    "gallery": lambda: plots.gallery([CROP, TALL], ["나무 집", "서울역"], ["나무집", "서억"], [0.4, 0.9]),
    "learning_curves": lambda: plots.learning_curves({0: CURVES, 1: CURVES}),
    "accuracy_by": lambda: plots.accuracy_by(errors.slice_table(FRAME, "by_length")),
    "confusion_pairs": lambda: plots.confusion_pairs(errors.confused_pairs(TEXTS, READ)),
    "jamo_confusion": lambda: plots.jamo_confusion(errors.jamo_confusions(TEXTS, READ)),
    "reliability": lambda: plots.reliability(FRAME["confidence"], FRAME["correct"]),
    "alignment": lambda: plots.alignment(CROP, "가나", _posteriors(), "가나다"),
    "alignment_map": lambda: plots.alignment_map(TALL, "가나", Alignment("가다", np.eye(2, 6), "CTC", down=True)),
    "slice_gains": lambda: plots.slice_gains(slices.slice_report(FRAME)),
    "syllable_confusion": lambda: plots.syllable_confusion(PAIRS),
    "edit_kinds": lambda: plots.edit_kinds(*KINDS),
    "changes": lambda: plots.changes(_compared()),
    "versus": lambda: plots.versus(
        [CROP, TALL], ["나무 집", "서울역"], ["나무집", ""], ["나무 집", "서억"], ("첫째", "b")
    ),
    "cv_vs_leaderboard": lambda: plots.cv_vs_leaderboard(LOG),
    "ensemble_comparison": lambda: plots.ensemble_comparison(MEMBERS),
    "order_effects": lambda: plots.order_effects(pd.DataFrame({"tall": [0.1, 0.2, 0.1], "세로": [0.3, 0.2, 0.2]})),
    "centres_wall": lambda: plots.centres_wall([CROP], ["가게"], [np.array([[0.25, 0.5], [0.75, 0.5]])]),
}
NOTHING = {
    "label_lengths": lambda: plots.label_lengths([]),
    "character_frequencies": lambda: plots.character_frequencies([""]),
    "shapes": lambda: plots.shapes([], []),
    "image_wall": lambda: plots.image_wall([], []),
    "gallery": lambda: plots.gallery([], [], []),
    "learning_curves": lambda: plots.learning_curves({0: CURVES.iloc[:0]}),
    "accuracy_by": lambda: plots.accuracy_by(errors.slice_table(FRAME.iloc[:0], "by_length")),
    "confusion_pairs": lambda: plots.confusion_pairs(errors.confused_pairs(["가"], ["가"])),
    "jamo_confusion": lambda: plots.jamo_confusion(errors.jamo_confusions(["가"], ["가"])),
    "reliability": lambda: plots.reliability([], []),
    "alignment": lambda: plots.alignment(CROP, "가", np.zeros((0, 4)), "가나다"),
    "alignment_map": lambda: plots.alignment_map(CROP, "가", Alignment("", np.zeros((0, 4)), "CTC")),
    "slice_gains": lambda: plots.slice_gains(slices.slice_report(FRAME.assign(correct=True))),
    "syllable_confusion": lambda: plots.syllable_confusion(PAIRS.iloc[:0]),
    "edit_kinds": lambda: plots.edit_kinds(KINDS[0].iloc[:0], KINDS[1].iloc[:0], KINDS[2]),
    "changes": lambda: plots.changes(_compared(FRAME.assign(img_path=OTHER["img_path"]))),
    "versus": lambda: plots.versus([], [], [], [], ("a", "b")),
    "cv_vs_leaderboard": lambda: plots.cv_vs_leaderboard(LOG.assign(public_score="")),
    "ensemble_comparison": lambda: plots.ensemble_comparison(MEMBERS.iloc[:0]),
    "order_effects": lambda: plots.order_effects(pd.DataFrame({"tall": []})),
    "centres_wall": lambda: plots.centres_wall([], [], []),
}


def _posteriors() -> np.ndarray:
    """Return 8 time steps over blank, 가, 나, 다 that spell "가다" greedily."""
    path = [0, 1, 1, 0, 0, 3, 0, 0]
    return 0.1 + 0.6 * np.eye(4)[path]


def _words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.fixture(autouse=True)
def _no_warning():
    """Turn matplotlib's "Glyph missing from font" (and any other warning) into a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_korean_font_has_outlines():
    family = plots.use_korean_font()
    for weight in ("normal", "bold"):
        font = FT2Font(font_manager.findfont(font_manager.FontProperties(family=family, weight=weight)))
        for character in "가힣뷁ㄱ":
            assert font.get_char_index(ord(character)) > 0
            font.load_char(ord(character))
            assert len(font.get_path()[0]) > 4


def test_a_font_without_hangul_is_not_taken_for_one():
    assert not style.draws(font_manager.findfont("DejaVu Sans"))
    assert not style.draws("no/such/font.ttf")


def test_without_any_font_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(style, "_candidates", lambda: iter([font_manager.findfont("DejaVu Sans")]))
    with pytest.raises(HangulOcrError, match="koreanize-matplotlib"):
        style._register_korean_font.__wrapped__()


def test_package_fonts_are_found_without_running_the_package(monkeypatch, tmp_path):
    (tmp_path / "boxed_fonts" / "fonts").mkdir(parents=True)
    (tmp_path / "boxed_fonts" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "boxed_fonts" / "fonts" / "NanumGothic.ttf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert [path.name for path in style._package_fonts("boxed_fonts")] == ["NanumGothic.ttf"]
    assert style._package_fonts("no_such_package") == []


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_without_a_missing_glyph(name, tmp_path):
    path = plots.save_figure(FIGURES[name](), tmp_path / "pictures" / f"{name}.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_has_an_empty_panel(name):
    for ax in FIGURES[name]().axes:
        assert ax.has_data() or ax.texts


@pytest.mark.parametrize("name", NOTHING)
def test_with_nothing_to_draw_a_sentence_says_so(name):
    figure = NOTHING[name]()
    assert not figure.axes
    assert _words(figure).strip().count(" ") >= 4


def test_every_public_figure_is_tried_here():
    assert set(plots.__all__) - {"save_figure", "use_korean_font"} == set(FIGURES) == set(NOTHING)


def test_a_missing_glyph_would_be_noticed():
    figure = style.drawn(lambda: style.sentence_figure("\U0001f9a6"))
    with pytest.raises(UserWarning, match=r"[Gg]lyph"):
        figure()


def test_a_notebooks_own_layout_rearranges_no_sheet_of_crops(tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"figure.constrained_layout.use": True}):
        figure = FIGURES["image_wall"]()
        plots.save_figure(figure, tmp_path / "a.png")
        assert figure._repr_png_() == figure._repr_png_()


def test_figures_leave_the_callers_style_alone():
    import matplotlib as mpl

    before = mpl.rcParams["axes.spines.top"]
    plots.label_lengths(["가"])
    assert mpl.rcParams["axes.spines.top"] == before


def test_gallery_colours_exactly_the_differing_characters():
    figure = plots.gallery([CROP], ["나무 집"], ["너무집"])
    coloured = [t.get_text() for t in figure.axes[0].texts if t.get_color() == style.WRONG]
    assert coloured == ["너"]
    expected = [t.get_text() for t in figure.axes[0].texts if t.get_color() == style.BLUE]
    assert expected == ["나", "␣"]


def test_pictures_keep_their_proportions():
    figure = plots.image_wall([CROP, TALL], ["가", "나"])
    for image, shape in zip(figure.axes[0].images, (CROP.shape, TALL.shape), strict=True):
        left, right, bottom, top = image.get_extent()
        assert abs(right - left) / abs(top - bottom) == pytest.approx(shape[1] / shape[0])


def test_spikes_of_the_greedy_path():
    assert pictures.ctc_spikes(_posteriors()) == [(1, 1, 2, 1), (3, 5, 5, 5)]


def test_alignment_marks_the_wrong_character():
    figure = plots.alignment(TALL, "가나", _posteriors(), "가나다")
    marks = {t.get_text(): t.get_color() for t in figure.axes[0].texts}
    assert marks == {"가": style.RIGHT, "다": style.WRONG}
    assert "label is “가나”" in _words(figure)
    assert "on its side" in _words(figure)


@pytest.mark.parametrize("down", [False, True])
def test_alignment_map_writes_each_character_at_its_place_in_the_crop(down):
    weights = np.array([[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0.5, 0.5]])
    figure = plots.alignment_map(TALL if down else CROP, "가나", Alignment("가다", weights, "CTC", down))
    marks = {t.get_text(): (t.get_position()[down], t.get_color()) for t in figure.axes[0].texts}
    assert marks == {"가": (1.5, style.BLUE), "다": (7.0, style.WRONG)}


def test_characters_that_share_a_place_are_written_apart():
    places = pictures._apart(np.array([1.0, 1.1, 5.0, 5.0]), 1.0)
    assert np.diff(places).min() >= 1.0 - 1e-9
    assert np.abs(places - [1.0, 1.1, 5.0, 5.0]).max() <= 1.0


def test_confused_characters_that_are_alike_stand_side_by_side():
    pairs = errors.confused_pairs(["가나다"] * 3 + ["거"], ["거노다"] * 3 + ["고"], None)
    assert plots._alike_together(pairs, 5) == ["가", "거", "고", "나", "노"]
    assert plots._alike_together(pairs, 3) == ["가", "거"]


def test_versus_marks_what_only_one_run_has_wrong():
    figure = plots.versus([CROP], ["나무 집"], ["나무집"], ["나무 잡"], ("a", "b"))
    assert [t.get_text() for t in figure.axes[0].texts if t.get_color() == style.WRONG] == ["·", "잡"]


def test_a_long_caption_is_broken_before_what_was_chosen_and_loses_nothing():
    read = " / ".join(["협용탕 마카롱 전읍리"] * 3)
    figure = plots.image_wall([CROP] * 3, [f"{read} → 협 용탕 마카롱 전읍리", "가 / 나 → 가", "가"], columns=3)
    captions = [text.get_text() for text in figure.axes[0].texts[1:]]
    assert captions == [read, "→ 협 용탕 마카롱 전읍리", "가 / 나 → 가", "가"]


def test_a_slices_title_names_the_one_that_is_worse_than_the_rest_and_not_the_largest():
    """12 of 80 wrong in the large slice, 10 of 20 in the small one: 7 of these are more than the rest would make."""
    by = ["wide"] * 80 + ["tall"] * 20
    right = [False] * 12 + [True] * 68 + [False] * 10 + [True] * 10
    table = errors.slice_table(pd.DataFrame({"by_shape": by, "correct": right}), "by_shape")
    figure = plots.accuracy_by(table)
    assert "if “tall” were as good as the rest, 7.0 points would be gained" in _words(figure)


def test_jamo_are_as_large_as_their_panel_allows():
    figure = plots.jamo_confusion(errors.jamo_confusions(["가나"], ["다라"]))
    assert {label.get_fontsize() for label in figure.axes[0].get_xticklabels()} == {9.0}


def test_learning_curves_of_a_short_fine_tuning_are_not_flat():
    table = pd.DataFrame({"crops": [0, 1000], "valid_loss": [0.072, 0.069], "valid_accuracy": [0.94, 0.95]})
    loss, accuracy = plots.learning_curves(table.assign(train_loss=[np.nan, 0.19])).axes
    low, high = loss.get_ylim()
    assert sum(low <= tick <= high for tick in loss.get_yticks()) >= 3
    assert accuracy.get_ylim()[0] == 0.8


def test_learning_curves_tolerate_missing_columns():
    figure = plots.learning_curves(pd.DataFrame({"step": ["1", "2"], "train_loss": ["3", "2"]}))
    assert "No validation accuracy" in _words(figure)


def test_a_figure_that_cannot_be_written_names_its_file(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(HangulOcrError, match=r"taken.*x\.png"):
        plots.save_figure(plots.label_lengths(["가"]), tmp_path / "taken" / "x.png")


def test_a_failed_write_keeps_the_old_figure(tmp_path, monkeypatch):
    path = plots.save_figure(plots.label_lengths(["가"]), tmp_path / "x.png")
    before = path.read_bytes()
    figure = plots.label_lengths(["가", "나다"])

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(HangulOcrError, match="No space left"):
        plots.save_figure(figure, path)
    assert path.read_bytes() == before
