"""Error analysis on alignments made by hand."""

import pandas as pd
import pytest

from hangul_ocr.evaluation import errors
from hangul_ocr.evaluation.errors import DELETE, INSERT, MATCH, SUBSTITUTE, Op
from hangul_ocr.evaluation.metrics import wilson_interval
from hangul_ocr.hangul import FINALS, INITIALS, MEDIALS, HangulOcrError


def test_alignment_of_a_substitution_and_a_deletion():
    assert errors.align("맛있는집", "맛았는") == [
        Op(MATCH, "맛", "맛", 0, 0),
        Op(SUBSTITUTE, "있", "았", 1, 1),
        Op(MATCH, "는", "는", 2, 2),
        Op(DELETE, "집", "", 3, 3),
    ]


def test_alignment_of_an_insertion_in_the_middle():
    assert errors.align("서울", "서 울") == [
        Op(MATCH, "서", "서", 0, 0),
        Op(INSERT, "", " ", 1, 1),
        Op(MATCH, "울", "울", 1, 2),
    ]


@pytest.mark.parametrize(("text", "prediction"), [("", ""), ("가나다", ""), ("", "가"), ("서울역 앞", "울역 앞에서")])
def test_alignment_spells_both_sides(text, prediction):
    ops = errors.align(text, prediction)
    assert "".join(op.expected for op in ops) == text
    assert "".join(op.predicted for op in ops) == prediction


@pytest.mark.parametrize(
    ("text", "prediction", "kind"),
    [
        ("가나", "가나", "correct"),
        ("가 나", "가나", "spacing"),
        ("가나", "", "empty"),
        ("가나", "가다", "substitution"),
        ("가나", "가나다", "insertion"),
        ("가나다", "가나", "deletion"),
        ("가나다라", "거나다", "mixed"),
    ],
)
def test_error_kind(text, prediction, kind):
    assert errors.error_kind(text, prediction) == kind


def test_confused_pairs_are_counted_and_related_to_occurrences():
    table = errors.confused_pairs(["가나", "가다", "가가", "라"], ["거나", "거다", "가가", "마"])
    assert table.iloc[0].tolist() == ["가", "거", 2, 4, 0.5]
    assert len(table) == 2
    assert errors.confused_pairs(["가"], ["가"]).empty


def test_inserted_and_deleted_characters():
    table = errors.inserted_and_deleted(["가 나", "다 라", "마"], ["가나", "다라", "마이"]).set_index("character")
    assert table.loc[" "].tolist() == [0, 2, 2]
    assert table.loc["이"].tolist() == [1, 0, 0]


def test_jamo_confusions_name_the_wrong_slots():
    found = errors.jamo_confusions(["각", "가", "각", "A"], ["낙", "강", "각", "B"])
    assert found.initial[INITIALS.index("ㄱ"), INITIALS.index("ㄴ")] == 1
    assert found.final[0, FINALS.index("ㅇ")] == 1
    assert found.medial[MEDIALS.index("ㅏ"), MEDIALS.index("ㅏ")] == 3
    assert found.wrong_slots == {"initial": 1, "final": 1}
    assert found.initial.sum() == found.medial.sum() == found.final.sum() == 3


def _oof(**extra: list) -> pd.DataFrame:
    rows = {
        "img_path": list("abcd"),
        "text": ["가", "나 다", "XXX", "라마"],
        "prediction": ["가", "나다", "간판", "라바"],
    }
    return pd.DataFrame({**rows, **extra})


def test_error_frame_adds_what_the_analysis_reads():
    extra = {"confidence": ["0.9", "0.8", "0.95", ""], "width": [10, 20, 30, 5], "height": ["10", "10", "10", "30"]}
    frame = errors.error_frame(_oof(**extra))
    assert frame["correct"].tolist() == [True, False, False, False]
    assert frame["n_edits"].tolist() == [0, 1, 3, 1]
    assert frame["length"].tolist() == [1, 3, 3, 2]
    assert frame["error_kind"].tolist() == ["correct", "spacing", "mixed", "substitution"]
    assert frame["by_shape"].tolist() == ["square", "wide", "wide", "tall"]
    assert frame["confidence"].isna().tolist() == [False, False, False, True]


def test_error_frame_of_strings_alone():
    frame = errors.error_frame(_oof())
    assert "by_shape" not in frame
    assert "by_rarity" not in frame


def test_error_frame_names_a_missing_column():
    with pytest.raises(HangulOcrError, match="no column prediction"):
        errors.error_frame(pd.DataFrame({"text": ["가"]}))


def test_slices_come_greatest_gain_first_with_intervals():
    frame = pd.DataFrame(
        {"source": ["sign"] * 6 + ["book"] * 4, "correct": [True] * 4 + [False] * 2 + [True] * 3 + [False]}
    )
    table = errors.slice_table(frame, "source")
    assert table["slice"].tolist() == ["sign", "book"]
    assert table["errors"].tolist() == [2, 1]
    assert table["gain"].tolist() == pytest.approx([0.2, 0.1])
    assert table["share_of_errors"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert (table["low"][0], table["high"][0]) == pytest.approx(wilson_interval(4, 6))
    assert errors.slice_table(frame, "source", natural_order=True)["slice"].tolist() == ["book", "sign"]


def test_length_slices_keep_their_order_and_lose_no_row():
    texts = ["가" * n for n in (22, 9, 8, 7, 2, 1)]
    frame = errors.error_frame(pd.DataFrame({"text": texts, "prediction": texts}))
    table = errors.slice_table(frame, "by_length", natural_order=True)
    assert table["slice"].tolist() == ["1", "2", "7 to 8", "9 or more"]
    assert table["n"].sum() == len(texts)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
def test_every_confidence_has_a_slice(confidence):
    frame = errors.error_frame(_oof(confidence=[confidence] * 4))
    assert errors.slice_table(frame, "by_confidence")["n"].sum() == 4


def test_a_slice_by_a_missing_column_is_an_error():
    with pytest.raises(HangulOcrError, match="no column source"):
        errors.slice_table(errors.error_frame(_oof()), "source")


def test_rarity_counts_only_what_the_fold_was_trained_on():
    frame = pd.DataFrame({"text": ["가 나", "가", "나", "뷁"], "prediction": [""] * 4, "fold": [0, 1, 1, 1]})
    # Fold 0 saw 가 and 나 once each; fold 1 saw them once in row 0; 뷁 was seen by nobody but its own fold.
    assert errors.training_frequency(frame).tolist() == [1, 1, 1, 0]
    assert errors.error_frame(frame)["by_rarity"].tolist() == ["1 or 2 times"] * 3 + ["never seen"]
    plain = pd.DataFrame({"text": ["가가나", "뷁"]})
    assert errors.training_frequency(frame, plain).tolist() == [1, 2, 1, 1]
    # A third fold, which nobody has read yet, taught the models of the other two as well.
    training = pd.concat([frame[["text", "fold"]], pd.DataFrame({"text": ["뷁 가", "뷁"], "fold": [2, 2]})])
    assert errors.training_frequency(frame, training).tolist() == [1, 2, 1, 2]


def test_worst_predictions_come_first_and_right_ones_never():
    worst = errors.worst_predictions(errors.error_frame(_oof()))
    assert worst["img_path"].tolist() == ["c", "d", "b"]


def test_suspicious_labels_are_confident_disagreements():
    frame = errors.error_frame(_oof(confidence=[0.99, 0.6, 0.97, 0.8]))
    found = errors.suspicious_labels(frame)
    assert found["img_path"].tolist() == ["c", "d", "b"]
    assert found["reason"].tolist() == ["placeholder", "substitution", "spacing"]


def test_kind_table_shares_sum_to_one():
    table = errors.kind_table(errors.error_frame(_oof()))
    assert table["n"].sum() == 3
    assert table["share_of_errors"].sum() == pytest.approx(1.0)
