"""The submission: the template's shape exactly, or a refusal that says what is wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import crop_png, write_csv

from hangul_ocr.data.dacon import Competition, read_competition
from hangul_ocr.data.tables import read_table, write_table
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference.submission import (
    changed_rows,
    file_sha256,
    former_submission,
    leaderboard_table,
    log_submission,
    read_log,
    say_changes,
    submission_warnings,
    validate_file,
    validate_submission,
    write_submission,
)


@pytest.fixture
def competition(mini_competition: Path) -> Competition:
    return read_competition(mini_competition)


@pytest.fixture
def predictions(competition: Competition) -> pd.DataFrame:
    paths = competition.test["img_path"]
    texts = [f"글자 {path[-6:-4]}" for path in paths]
    return pd.DataFrame({"img_path": paths, "text": texts, "confidence": 0.5}).iloc[::-1]


@pytest.fixture
def filled(competition: Competition) -> pd.DataFrame:
    return competition.template.assign(text="가")


def problems(submission: pd.DataFrame, competition: Competition) -> list[str]:
    return validate_submission(submission, competition.template, "img_path", "text")


def test_predictions_are_joined_by_path(competition: Competition, predictions: pd.DataFrame, tmp_path: Path) -> None:
    path = write_submission(predictions, competition, tmp_path / "out" / "submission.csv")
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfimg_path,text\n./test/test_00001.png,")
    written = pd.read_csv(path, encoding="utf-8-sig")
    assert written["img_path"].tolist() == competition.template["img_path"].tolist()
    assert all(text == f"글자 {name[-6:-4]}" for name, text in written.itertuples(index=False))
    assert validate_file(path, competition) == []
    assert [file.name for file in path.parent.iterdir()] == ["submission.csv"]


def test_texts_with_commas_quotes_and_spaces_survive(
    competition: Competition, predictions: pd.DataFrame, tmp_path: Path
) -> None:
    texts = ['a,"b"', " 가 ", "NA", "null", '"', "'", "나  다", "1e5"]
    path = write_submission(predictions.assign(text=texts), competition, tmp_path / "s.csv")
    read = pd.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False)
    assert read["text"].tolist() == texts[::-1]


def test_the_sister_competition_is_joined_by_id(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(crop_png(0))
    write_csv(tmp_path / "train.csv", ("id", "img_path", "label"), [("A", "a.png", "가")])
    write_csv(tmp_path / "test.csv", ("id", "img_path"), [("X1", "./a.png"), ("X2", "./b.png")])
    write_csv(tmp_path / "sample_submission.csv", ("id", "label"), [("X2", ""), ("X1", "")])
    predictions = pd.DataFrame({"img_path": ["./a.png", "./b.png"], "text": ["에이", "비"]})
    path = write_submission(predictions, read_competition(tmp_path), tmp_path / "s.csv")
    assert path.read_text(encoding="utf-8-sig") == "id,label\nX2,비\nX1,에이\n"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.iloc[2:], "2 img_path missing"),
        (lambda p: pd.concat([p, p.head(1).assign(img_path="./test/x.png")]), "1 img_path not in the template"),
        (lambda p: pd.concat([p, p.head(1)]), "1 img_path repeated"),
        (lambda p: p.assign(text=[None, *p["text"].iloc[1:]]), r"1 texts are null \(\./test/test_00009\.png"),
        (lambda p: p.assign(text=float("nan")), "8 texts are null"),
        (lambda p: p.assign(text=range(8)), "8 texts are no text"),
        (lambda p: p.assign(text=unicodedata.normalize("NFD", "한글")), "8 texts are not in NFC"),
        (lambda p: p.assign(text="\ufeff가"), "byte order mark"),
        (lambda p: p.drop(columns="text"), "no column 'text'"),
        (lambda p: p.assign(img_path=[None, *p["img_path"].iloc[1:]]), "have no img_path"),
    ],
)
def test_wrong_predictions_are_refused(
    competition: Competition,
    predictions: pd.DataFrame,
    tmp_path: Path,
    spoil: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    path = write_submission(predictions, competition, tmp_path / "s.csv")
    former = path.read_bytes()
    with pytest.raises(HangulOcrError, match=message):
        write_submission(spoil(predictions), competition, path)
    assert path.read_bytes() == former


def test_no_template_no_submission(mini_competition: Path, predictions: pd.DataFrame, tmp_path: Path) -> None:
    (mini_competition / "sample_submission.csv").unlink()
    with pytest.raises(HangulOcrError, match=r"sample_submission\.csv"):
        write_submission(predictions, read_competition(mini_competition), tmp_path / "s.csv")


def test_empty_predictions_are_allowed_and_said(
    competition: Competition, predictions: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_submission(predictions.assign(text=""), competition, tmp_path / "s.csv")
    assert validate_file(path, competition) == []
    assert "8 of 8 predictions are empty" in caplog.text
    assert submission_warnings(competition.template.assign(text="가"), "text") == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.rename(columns={"text": "label"}), "columns are img_path, label, not img_path, text"),
        (lambda s: s[["text", "img_path"]], "columns are text, img_path"),
        (lambda s: s.assign(confidence=1.0), "columns are img_path, text, confidence"),
        (lambda s: s.rename(columns={"img_path": "\ufeffimg_path"}), "byte order mark is part of the column name"),
        (lambda s: s.iloc[::-1], "another order than the template's, from row 1"),
        (lambda s: s.iloc[1:], "1 img_path missing (./test/test_00001.png)"),
        (lambda s: pd.concat([s, s.iloc[:1]]), "1 img_path repeated"),
        (lambda s: s.assign(img_path=s["img_path"].str[2:]), "8 img_path missing"),
    ],
)
def test_the_validator_says_what_is_wrong(
    competition: Competition, filled: pd.DataFrame, spoil: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    assert problems(filled, competition) == []
    assert message in "; ".join(problems(spoil(filled), competition))


def test_many_problems_are_all_listed_and_few_rows_named(competition: Competition, filled: pd.DataFrame) -> None:
    found = problems(filled.assign(text=None, img_path="x"), competition)
    assert len(found) == 4
    assert "and 5 more" in found[0]


def log_one(path: Path, run: str, sha256: str = "abc", **more: str) -> int | None:
    return log_submission(
        path, run=run, commit="0123abc", cv=0.51234, cv_low=0.49, cv_high=0.53, file="s.csv", sha256=sha256, **more
    )


def test_the_log_grows_and_keeps_what_people_typed(tmp_path: Path) -> None:
    path = tmp_path / "submissions" / "log.csv"
    log_one(path, "first", note="가, 나")
    text = path.read_text(encoding="utf-8-sig")
    table = pd.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False)
    assert table.loc[0, ["run", "cv", "cv_low", "public_score", "note"]].tolist() == [
        "first", "0.5123", "0.4900", "", "가, 나"
    ]  # fmt: skip
    assert text.count("\n") == 2
    table.assign(public_score="0.93343", mine="좋음").to_csv(path, index=False, encoding="cp949")
    log_one(path, "second")
    table = pd.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False)
    assert table["run"].tolist() == ["first", "second"]
    assert table["public_score"].tolist() == ["0.93343", ""]
    assert table["mine"].tolist() == ["좋음", ""]


def test_the_same_file_of_a_run_is_logged_once(tmp_path: Path) -> None:
    given = (("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("a", "2"))
    assert [log_one(tmp_path / "log.csv", run, sha256) for run, sha256 in given] == [None, 1, None, None, 2]
    assert len(pd.read_csv(tmp_path / "log.csv", encoding="utf-8-sig")) == 3


def test_a_log_that_is_none_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HangulOcrError, match=r"log\.csv: no log of submissions"):
        log_one(tmp_path / "log.csv", "run")
    assert (tmp_path / "log.csv").read_text() == "a,b\n1,2\n"


def test_the_hash_is_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x").startswith("ba7816bf")


# --- what is new ----------------------------------------------------------------------------------------------------


def test_changes_are_found_by_row_and_sorted_by_confidence(
    competition: Competition, predictions: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_table(write_submission(predictions, competition, tmp_path / "s.csv"))
    changed = predictions.assign(text=["새 글", *predictions["text"][1:-1], "딴 글"])
    changed["confidence"] = [0.9, *[0.5] * 6, 0.2]
    after = read_table(write_submission(changed, competition, tmp_path / "s.csv"))
    table = changed_rows(before, after, competition, changed)
    assert list(table.columns) == ["img_path", "before", "after", "confidence"]
    assert table["after"].tolist() == ["딴 글", "새 글"]
    assert table["confidence"].tolist() == [0.2, 0.9]
    say_changes(table, tmp_path / "s.csv")
    shown = capsys.readouterr().out
    assert "2 rows differ" in shown
    assert shown.index("'새 글'  90 %") < shown.index("'딴 글'  20 %")
    assert len(changed_rows(after, after, competition, changed)) == 0


def test_a_former_submission_of_other_rows_or_none_is_not_compared(
    competition: Competition, predictions: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = read_table(write_submission(predictions, competition, tmp_path / "s.csv"))
    for before in (None, after.iloc[1:], after.rename(columns={"text": "label"})):
        assert changed_rows(before, after, competition, predictions) is None
    say_changes(None, tmp_path / "s.csv")
    assert "nothing to compare it with" in capsys.readouterr().out
    (tmp_path / "broken.csv").write_text('a,b\n"1', encoding="utf-8")
    assert former_submission(tmp_path / "broken.csv") is None
    assert former_submission(tmp_path / "gone.csv") is None


def test_the_leaderboard_beside_cross_validation(tmp_path: Path) -> None:
    log_one(tmp_path / "log.csv", "first")
    log_one(tmp_path / "log.csv", "second")
    assert leaderboard_table(read_log(tmp_path / "log.csv"), 800).empty
    type_scores(tmp_path / "log.csv", "0.50", "")
    table = leaderboard_table(read_log(tmp_path / "log.csv"), 800)
    assert table.index.tolist() == ["first"]
    # 2 points of cross-validation and 1.96 x 1.77 of 800 test rows, added as squares.
    assert table.iloc[0].tolist() == [51.23, "49.00 to 53.00", 50.0, -1.23, 4.0, "no"]
    assert leaderboard_table(read_log(tmp_path / "log.csv"), 10**9)["chance allows"].tolist() == [2.0]


def test_equal_worth_is_called_more_than_chance_once_in_twenty_times() -> None:
    rng, rows, n, truth = np.random.default_rng(0), 2992, 800, 0.9
    cv, public = rng.binomial(rows, truth, 2000) / rows, rng.binomial(n, truth, 2000) / n
    reach = 1.96 * np.sqrt(cv * (1 - cv) / rows)
    log = pd.DataFrame({"cv": cv, "cv_low": cv - reach, "cv_high": cv + reach, "public_score": public, "run": "x"})
    assert leaderboard_table(log, n)["more than chance"].eq("yes").mean() == pytest.approx(0.05, abs=0.02)


def test_public_scores_may_be_typed_in_percent_and_with_a_comma(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log_one(path, "first")
    for typed, score in {"84.2": 0.842, "0,842": 0.842, "84,2 %": 0.842, "1": 1.0, "0": 0.0}.items():
        type_scores(path, typed)
        assert read_log(path)["public_score"].tolist() == pytest.approx([score])
    for typed in ("gut", "-1", "842"):
        type_scores(path, typed)
        with pytest.raises(HangulOcrError, match=f"public score '{typed}' of first is none; type it as"):
            read_log(path)


def type_scores(log: Path, *scores: str) -> None:
    write_table(read_table(log).assign(public_score=scores), log)


def test_a_competition_without_template_has_nothing_to_hold_a_file_against(competition: Competition) -> None:
    bare = replace(competition, template=pd.DataFrame())
    with pytest.raises(HangulOcrError, match=r"sample_submission.csv: not found; put"):
        validate_file(competition.folder / "sample_submission.csv", bare)
