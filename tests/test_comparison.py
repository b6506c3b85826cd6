"""Two runs on the same crops, joined by path."""

import pandas as pd
import pytest

from hangul_ocr.evaluation.comparison import BETTER, WORSE, compare_runs, comparison_table, verdict
from hangul_ocr.hangul import HangulOcrError


def table(predictions: dict[str, str], **labels: str) -> pd.DataFrame:
    paths = list(predictions)
    texts = [labels.get(path, "가") for path in paths]
    return pd.DataFrame({"img_path": paths, "text": texts, "prediction": list(predictions.values())})


def test_rows_are_joined_by_path_whatever_their_order():
    first = table({"a": "가", "b": "나", "c": "나", "d": "가"})
    second = table({"d": "나", "c": "나", "b": "가", "a": "가"})
    found = compare_runs(first, second).rows.set_index("img_path")["outcome"]
    assert found.to_dict() == {"a": "both right", "b": "better", "c": "both wrong", "d": "worse"}


def test_the_test_is_mcnemars_and_the_verdict_says_what_it_means():
    first = table({str(i): "나" if i < 10 else "가" for i in range(20)})
    found = compare_runs(first, table({str(i): "가" for i in range(20)}), ("old", "new"))
    assert (found.test.only_first, found.test.only_second) == (0, 10)
    assert found.test.p_value == pytest.approx(2 / 2**10)
    assert verdict(found) == "10 crops got better, 0 worse: new is better than old (p = 0.002)"
    assert comparison_table(found).loc["accuracy of old"].item().startswith("50.00 %")
    assert "chance" in verdict(compare_runs(first.head(3), first.head(3)))


def test_crops_of_one_run_alone_are_counted():
    found = compare_runs(table({"a": "가", "b": "가"}), table({"b": "나", "c": "가"}))
    assert found.left_aside == 2
    assert comparison_table(found).loc["crops that only one has, left aside"].item() == "2"


def test_the_surest_changes_come_first():
    first = table({"a": "나", "b": "나"}).assign(confidence=[0.2, 0.9])
    found = compare_runs(first, table({"a": "가", "b": "가"}))
    assert found.picked(BETTER)["img_path"].tolist() == ["b", "a"]
    assert found.picked(WORSE).empty


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (table({"a": "가"}), table({"b": "가"}), "no crop in common"),
        (table({"a": "가"}), table({"a": "가"}, a="다"), "other labels for 1 crops .first a: “가” and “다”"),
        (table({"a": "가"}).drop(columns="prediction"), table({"a": "가"}), "first: no column prediction"),
        (table({"a": "가"}), pd.concat([table({"a": "가"})] * 2), "second: a stands there more than once"),
    ],
)
def test_tables_that_cannot_be_compared_say_why(first, second, message):
    with pytest.raises(HangulOcrError, match=message):
        compare_runs(first, second)
