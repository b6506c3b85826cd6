"""The benchmarks are run by hand and take long: here, that they begin, and that what they compare can be made."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# trdg_speed.py runs where TextRecognitionDataGenerator is installed, which wants an older Pillow.
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "trdg_speed")
VARIANTS = """
from ablation import LISTS, parse_variant
from training_step import VARIANTS
from hangul_ocr.hangul import Alphabet
from hangul_ocr.models.recognizer import Recognizer
base = parse_variant("base")
for variant in {*VARIANTS, *LISTS["levers"], *LISTS["backbones"]} - {"plain", "base"}:
    assert parse_variant(variant) != base, variant
    Recognizer(parse_variant(variant)[0].model, Alphabet("가"))
"""


def test_every_script_begins_and_every_variant_is_a_recipe():
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import {', '.join(SCRIPTS)}{VARIANTS}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
