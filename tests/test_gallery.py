"""The gallery: what its views hold, what search and filters leave, and the widgets that turn it over."""

import numpy as np
import pandas as pd
import pytest

from hangul_ocr.error_browser import ErrorBrowser
from hangul_ocr.evaluation import errors, gallery
from hangul_ocr.hangul import HangulOcrError, normalise

OOF = pd.DataFrame(
    {
        "img_path": ["a.png", "b.png", "c.png", "d.png", "e.png"],
        "text": ["서울역", "서울", "Cafe", "나무 집", "가"],
        "prediction": ["서울역", "서물", "Cafe", "나무집", "거"],
        "confidence": [0.4, 0.9, 0.8, 0.7, None],
        "fold": [0, 0, 1, 1, 1],
    }
)
FRAME = errors.error_frame(OOF)


def paths(rows: pd.DataFrame) -> list[str]:
    return [path[0] for path in rows["img_path"]]


def test_views_hold_what_their_names_say():
    found = {name: paths(gallery.view(FRAME, name)) for name in gallery.VIEWS}
    assert found == {
        "worst": ["e", "b", "d"],
        "most confident wrong": ["b", "d"],
        "most uncertain right": ["a", "c"],
        "suspected label errors": ["b", "d"],
        "all crops": ["a", "b", "c", "d", "e"],
    }
    assert gallery.view(FRAME.drop(columns="confidence"), gallery.CONFIDENT_WRONG).empty
    with pytest.raises(HangulOcrError, match="view 'best' is unknown"):
        gallery.view(FRAME, "best")


def test_suspects_are_ranked_by_suspicion_where_it_is_known():
    ranked = FRAME.assign(suspicion=[np.nan, 0.5, np.nan, 3.0, 1.0])
    assert paths(gallery.view(ranked, gallery.SUSPECTS)) == ["d", "e", "b"]


@pytest.mark.parametrize(
    ("query", "found"),
    [("서울", "ab"), ("물", "b"), ("cafe ", "c"), ("나무 집", "d"), ("", "abcde"), ("d.png", "d"), ("[", "")],
)
def test_search_looks_into_label_reading_and_path(query, found):
    assert "".join(paths(gallery.search(FRAME, query))) == found


def test_search_finds_what_macos_types():
    import unicodedata

    decomposed = unicodedata.normalize("NFD", "서울")
    assert decomposed != normalise(decomposed)
    assert paths(gallery.search(FRAME, decomposed)) == ["a", "b"]


def test_filters_and_orders():
    assert paths(gallery.filtered(FRAME, {"fold": "1", "error_kind": "spacing"})) == ["d"]
    assert paths(gallery.filtered(FRAME, {"fold": ""})) == list("abcde")
    assert paths(gallery.ordered(FRAME, "least sure first")) == ["a", "d", "c", "b", "e"]
    assert gallery.choices(FRAME)["fold"] == ["0", "1"]
    assert "tags" not in gallery.choices(FRAME)


def test_a_tag_of_several_is_a_filter():
    tagged = FRAME.assign(tags=[["curve"], ["curve", "artistic"], [], None, float("nan")])
    assert gallery.choices(tagged)["tags"] == ["artistic", "curve"]
    assert paths(gallery.filtered(tagged, {"tags": "curve"})) == ["a", "b"]
    assert paths(gallery.filtered(tagged, {"tags": ""})) == list("abcde")
    with pytest.raises(HangulOcrError, match="order 'x' is unknown"):
        gallery.ordered(FRAME, "x")


# --- the widgets ----------------------------------------------------------------------------------------------------


def browser(per_page: int = 2) -> tuple[ErrorBrowser, list[list[str]]]:
    """Return the widgets, and the lists of paths whose pictures they have asked for."""
    asked: list[list[str]] = []

    def fetch(keys):
        asked.append(list(keys))
        return [np.full((20, 40, 3), 100, np.uint8) for _ in keys]

    return ErrorBrowser(FRAME, fetch, per_page), asked


def test_a_page_asks_for_its_own_crops_only():
    shown, asked = browser()
    assert asked == [["e.png", "b.png"]]
    shown.page.value = 2
    assert asked[-1] == ["d.png"]
    assert shown.page.max == 2


def test_every_control_changes_the_picture_and_the_page_goes_back_to_the_first():
    shown, asked = browser()
    shown.page.value = 2
    before = shown.picture.value
    shown.view.value = gallery.UNCERTAIN_RIGHT
    assert asked[-1] == ["a.png", "c.png"]
    assert shown.page.value == 1
    assert shown.picture.value != before
    shown.query.value = "역"
    assert asked[-1] == ["a.png"]
    assert "1 of 5 crops" in shown.count.value
    shown.query.value = ""
    shown.filters["fold"].value = "1"
    assert paths(shown.chosen()) == ["c"]


def test_nothing_that_fits_is_a_sentence_and_no_error():
    shown, asked = browser()
    shown.query.value = "없는 글자"
    assert asked[-1] == []
    assert bytes(shown.picture.value).startswith(b"\x89PNG")
