"""Crops a second of TextRecognitionDataGenerator (PyPI: trdg 1.8), for synthesis.py, which starts it.

It runs in an environment of its own: trdg 1.8 calls what Pillow removed in version 10.

    python3 -m venv trdg && trdg/bin/pip install trdg "pillow<10"
    python benchmarks/synthesis.py --trdg trdg/bin/python
"""

import json
import sys
import time

from trdg.generators import GeneratorFromStrings


def main() -> None:
    """Read words, fonts and seconds as JSON from the input, print crops a second."""
    task = json.load(sys.stdin)
    looks = {"blur": 1, "random_blur": True, "distorsion_type": 3, "skewing_angle": 5, "random_skew": True}
    crops = GeneratorFromStrings(task["words"], count=-1, fonts=task["fonts"], size=40, language="ko", **looks)
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < task["seconds"]:
        next(crops)
        count += 1
    print(count / spent)


if __name__ == "__main__":
    main()
