"""Crops a second of the generator on one core, beside a bare Pillow `ImageDraw.text` of the same words.

``plain`` is clean text on a flat ground, ``signs`` every effect at its usual share, ``stream`` what training sees
of networks of 32 pixels, and of 48: small crops, a third of them clean, a quarter tall. Pillow draws the same labels in
the same faces, black on white, at 40 pixels: no layout, no effect, no known places. The variants go in turn, several
times over, after a first round that fills the caches. With ``--trdg`` PyPI's TextRecognitionDataGenerator stands beside
them: the same words and fonts, blurred and skewed at random (trdg_speed.py tells how to install it).

    python benchmarks/synthesis.py --json synthesis.json
    taskset -c 0 python benchmarks/synthesis.py --effects    # the cost of each effect alone, on every crop
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from hangul_ocr.synthesis.fonts import find_fonts
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.stream import SHORT_SIDE, drawn_short_side
from hangul_ocr.synthesis.style import EFFECTS, Style
from hangul_ocr.synthesis.words import TRAINING, WordSource, load_words
from hangul_ocr.workspace import atomic_write_text, describe_device


def drawers(effects: bool) -> dict[str, Callable[[int], object]]:
    """Return what makes crop number ``index``, by the variant's name."""
    faces, words = find_fonts(), WordSource(load_words(), TRAINING)
    styles = {"plain": Style.plain(SHORT_SIDE)}
    if effects:
        styles |= {effect: styles["plain"].only(effect) for effect in EFFECTS}
    else:
        signs = Style.signs(SHORT_SIDE)
        styles |= {"signs": replace(signs, clean=0.0), "stream": Style.training(SHORT_SIDE)}
        styles |= {"stream of 48 pixels": Style.training(drawn_short_side(48))}
    renderers = {name: Renderer(faces, words, style, seed=1) for name, style in styles.items()}
    fonts = [face.load(40) for face in faces]

    def pillow(index: int) -> np.ndarray:
        rng = np.random.default_rng((1, index))
        text, font = words.sample(rng), fonts[int(rng.integers(len(fonts)))]
        left, top, right, bottom = font.getbbox(text)
        image = Image.new("RGB", (max(1, int(right - left)), max(1, int(bottom - top))), "white")
        ImageDraw.Draw(image).text((-left, -top), text, fill="black", font=font)
        return np.asarray(image)

    return {"Pillow": pillow} | {name: renderer.render for name, renderer in renderers.items()}


def crops_per_second(draw: Callable[[int], object], start: int, seconds: float) -> float:
    """Return how many crops from number ``start`` on are drawn in a second."""
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        draw(start + count)
        count += 1
    return count / spent


def trdg(python: Path) -> Callable[[int, float], float]:
    """Return what measures trdg in another interpreter, from a crop number on for so many seconds."""
    faces, words = find_fonts(), WordSource(load_words(), TRAINING)
    fonts = sorted({face.path for face in faces if not face.path.endswith((".ttc", ".woff2"))})

    def measure(start: int, seconds: float) -> float:
        texts = [words.sample(np.random.default_rng((1, start + i))) for i in range(2000)]
        task = json.dumps({"words": texts, "fonts": fonts, "seconds": seconds})
        script = Path(__file__).with_name("trdg_speed.py")
        done = subprocess.run([python, script], input=task, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    return measure


def main() -> None:
    """Measure all variants in turn, several rounds, and print medians and spreads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--effects", action="store_true", help="each effect alone, on every crop")
    parser.add_argument("--trdg", type=Path, metavar="PYTHON", help="an interpreter that has trdg and pillow<10")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    variants = {name: partial(crops_per_second, draw) for name, draw in drawers(arguments.effects).items()}
    if arguments.trdg:
        variants["trdg"] = trdg(arguments.trdg)
    rows = []
    for number in range(arguments.rounds + 1):
        for name, measure in variants.items():
            speed = measure(number * 100_000, arguments.seconds)
            if number:  # the first round fills the caches of glyphs
                rows.append({"variant": name, "round": number, "crops/s": round(speed)})
    table = pd.DataFrame(rows).groupby("variant", sort=False)["crops/s"].agg(["median", "min", "max"])
    machine = f"{describe_device()}, one process; {len(find_fonts())} faces"
    print(machine, table.to_string(), sep="\n")
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
