"""Korean scene-text recognition: from a competition's word images to a submission and pictures of the errors."""

__version__ = "0.1.0"
