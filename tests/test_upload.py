"""Handing in without a browser: stand-ins for DACON's package and Kaggle's program, since nothing may be uploaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hangul_ocr import cli
from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.inference.upload import TOKEN, upload_to

SECRET = "s3cret-token"


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    (tmp_path / "submission.csv").write_text("img_path,text\n./a.png,가\n", encoding="utf-8")
    return tmp_path / "submission.csv"


def install_dacon(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Put a package dacon_submit_api on the path that notes each call in a file, and then does ``body``."""
    package = folder / "packages" / "dacon_submit_api"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    calls = folder / "calls.jsonl"
    source = f"""
import json
def post_submission_file(file_path, token, cpt_id, team_name, memo):
    with open({str(calls)!r}, "a") as notes:
        print(json.dumps([file_path, token, cpt_id, team_name, memo]), file=notes)
    {body}
"""
    (package / "dacon_submit_api.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [name for name in sys.modules if name.startswith("dacon_submit_api")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv(TOKEN, SECRET)
    return calls


def calls_in(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def test_dacon_gets_file_token_competition_team_and_memo(submission, tmp_path, monkeypatch):
    calls = install_dacon(tmp_path, monkeypatch, "return {'isSubmitted': True, 'detail': 'Success'}")
    told = upload_to("dacon", submission, "235970", "우리팀", "다섯 폴드")
    assert "has taken" in told
    assert "Success" in told
    assert calls_in(calls) == [[str(submission), SECRET, "235970", "우리팀", "다섯 폴드"]]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return {'isSubmitted': False, 'detail': 'over max submission count of daily'}", "over max submission"),
        ("return {'detail': 'token ' + token + ' is wrong'}", r"token \(token\) is wrong"),
        ("raise ConnectionError('no route for ' + token)", r"ConnectionError: no route for \(token\)"),
        ("return None", "has not taken"),
        ("raise SystemExit('bad ' + token)", r"SystemExit: bad \(token\)"),
        ("print('sent', token); return {'detail': 'no'}", "has not taken"),
    ],
)
def test_a_refusal_is_told_once_without_the_token(submission, tmp_path, monkeypatch, capsys, body, told):
    calls = install_dacon(tmp_path, monkeypatch, body)
    with pytest.raises(HangulOcrError, match=told) as caught:
        upload_to("dacon", submission, "235970", "우리팀")
    shown = capsys.readouterr()
    assert SECRET not in str(caught.value) + shown.out + shown.err
    assert len(calls_in(calls)) == 1


def test_dacon_without_token_package_or_file(submission, tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(HangulOcrError, match=f"environment variable {TOKEN}"):
        upload_to("dacon", submission, "1")
    monkeypatch.setenv(TOKEN, SECRET)
    for name in ("dacon_submit_api", "dacon_submit_api.dacon_submit_api"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HangulOcrError, match="dacon_submit_api is not installed"):
        upload_to("dacon", submission, "1", "우리팀")
    with pytest.raises(HangulOcrError, match="give it by --team"):
        upload_to("dacon", submission, "1")
    with pytest.raises(HangulOcrError, match="no such file"):
        upload_to("dacon", tmp_path / "gone.csv", "1")


def install_kaggle(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int = 0) -> Path:
    program, calls = folder / "bin" / "kaggle", folder / "calls.jsonl"
    program.parent.mkdir()
    source = f"""#!{sys.executable}
import json, sys
with open({str(calls)!r}, "a") as notes:
    print(json.dumps(sys.argv[1:]), file=notes)
print({line!r})
sys.exit({code})
"""
    program.write_text(source, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return calls


def test_kaggle_is_asked_once_and_quoted(submission, tmp_path, monkeypatch):
    calls = install_kaggle(tmp_path, monkeypatch, "Successfully submitted to Korean OCR")
    assert "Successfully submitted to Korean OCR" in upload_to("kaggle", submission, "korean-ocr", memo="가 나")
    assert calls_in(calls) == [
        ["competitions", "submit", "-c", "korean-ocr", "-f", str(submission), "-m", "가 나"]
    ]  # fmt: skip


@pytest.mark.parametrize(("line", "code"), [("403 - Forbidden", 1), ("Could not find competition", 0), ("", 0)])
def test_kaggle_refuses(submission, tmp_path, monkeypatch, line, code):
    calls = install_kaggle(tmp_path, monkeypatch, line, code)
    with pytest.raises(HangulOcrError, match=f"has not taken .*: {line or 'it said nothing'}"):
        upload_to("kaggle", submission, "x")
    assert len(calls_in(calls)) == 1


def test_an_answer_in_another_encoding_is_no_failure(submission, tmp_path, monkeypatch):
    install_kaggle(tmp_path, monkeypatch, "x")
    program = tmp_path / "bin" / "kaggle"
    line = "Successfully submitted to 한글".encode("cp949")
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write({line!r})\n", encoding="utf-8")
    assert "Kaggle has taken" in upload_to("kaggle", submission, "korean-ocr")


def test_kaggle_is_not_there(submission, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HangulOcrError, match="pip install kaggle"):
        upload_to("kaggle", submission, "x")


def test_the_command_checks_the_file_first_and_tells_the_answer(tmp_path, mini_competition, monkeypatch, capsys):
    for name in ("INPUT", "OUTPUT", "SUBMISSIONS"):
        monkeypatch.setenv(f"HANGUL_OCR_{name}", str(tmp_path / name.lower()))
    calls = install_dacon(tmp_path, monkeypatch, "return {'isSubmitted': True, 'detail': 'Success'}")
    template = (mini_competition / "sample_submission.csv").read_text(encoding="utf-8-sig")
    (tmp_path / "good.csv").write_text(template.replace(",\n", ",가\n"), encoding="utf-8")
    (tmp_path / "short.csv").write_text("img_path,text\n", encoding="utf-8")
    command = ["upload", "--to", "dacon", "--competition", "1", "--team", "팀", "--data", str(mini_competition)]
    assert cli.main([*command, str(tmp_path / "short.csv")]) == 1
    assert "short.csv: not uploaded: 8 img_path missing" in capsys.readouterr().err
    assert calls_in(calls) == []
    assert cli.main([*command, str(tmp_path / "good.csv")]) == 0
    shown = capsys.readouterr()
    assert "DACON has taken" in shown.out
    assert SECRET not in shown.out + shown.err
    assert len(calls_in(calls)) == 1
