"""``python -m hangul_ocr`` is the command line; so is ``accelerate launch -m hangul_ocr``, in several processes."""

import sys

from hangul_ocr.cli import main

sys.exit(main())
