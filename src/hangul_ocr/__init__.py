"""Korean scene-text recognition: from a competition's word images to a submission and pictures of the errors."""

import os

__version__ = "0.1.0"

# On a CPU oneDNN compiles a kernel for each layer and shape and keeps the last 1,024. Batches of words come in more
# shapes than that: compiling took a third of the time. Here, since oneDNN asks once, at its first kernel.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
