"""Handing a file in without a browser: DACON's own ``dacon_submit_api``, Kaggle's own command line.

Each is called once; a refusal is told and never tried again by itself, since a try may count against the day's limit.
The token comes from the environment; it is written to no file and cut out of whatever is printed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hangul_ocr.hangul import HangulOcrError

TOKEN = "DACON_TOKEN"
KAGGLE = "kaggle"
SECONDS = 600  # of waiting for Kaggle's command line
_ACCEPTED = "successfully submitted"


def upload_to(site: str, file: Path, competition: str, team: str = "", memo: str = "") -> str:
    """Upload ``file`` to ``dacon`` or ``kaggle`` once and return what the site says.

    Raises ``HangulOcrError`` for a refusal, for a missing file, token or program, and for an answer that tells neither.
    """
    if not file.is_file():
        raise HangulOcrError(f"{file}: no such file; write it with `hangul-ocr submit`")
    if site == "dacon":
        return _to_dacon(file, competition, team, memo)
    return _to_kaggle(file, competition, memo)


def _to_dacon(file: Path, competition: str, team: str, memo: str) -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise HangulOcrError(f"no token: put yours (dacon.io, my page, account) into the environment variable {TOKEN}")
    if not team:
        raise HangulOcrError("DACON wants the team's name: give it by --team")
    submit, said = _dacon_function(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            answer = submit(str(file), token, competition, team, memo)
    except (Exception, SystemExit) as error:  # whatever a package of others raises; its message may quote the token
        told = _without(token, f"{type(error).__name__}: {error}")
        raise HangulOcrError(f"DACON: {told}; look at the page of submissions before you try again") from None
    finally:
        print(_without(token, said.getvalue()), end="")
    detail = _without(token, str(answer.get("detail", answer) if isinstance(answer, dict) else answer))
    if isinstance(answer, dict) and answer.get("isSubmitted"):
        return f"DACON has taken {file}: {detail}"
    raise HangulOcrError(f"DACON has not taken {file}: {detail}")


def _dacon_function() -> Callable[..., Any]:
    try:
        return importlib.import_module("dacon_submit_api.dacon_submit_api").post_submission_file
    except (ImportError, AttributeError):
        raise HangulOcrError(
            "dacon_submit_api is not installed: take the .whl from DACON's notice (dacon.io/forum/403557) and "
            "pip install it"
        ) from None


def _without(token: str, text: str) -> str:
    return text.replace(token, "(token)")


def _to_kaggle(file: Path, competition: str, memo: str) -> str:
    program = shutil.which(KAGGLE)
    if program is None:
        raise HangulOcrError("Kaggle's command line is not installed: pip install kaggle")
    command = [program, "competitions", "submit", "-c", competition, "-f", str(file), "-m", memo or file.name]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HangulOcrError(
            f"Kaggle: no answer in {SECONDS} s; look at the page of submissions before you try again"
        ) from None
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    # Its exit code is 0 for some refusals too.
    if done.returncode == 0 and any(_ACCEPTED in line.lower() for line in lines):
        return f"Kaggle has taken {file}: {next(line for line in lines if _ACCEPTED in line.lower())}"
    raise HangulOcrError(f"Kaggle has not taken {file}: {lines[-1] if lines else 'it said nothing'}")
