"""Korean scene-text recognition for competitions: from cropped word images to a submission and pictures of the errors."""

__version__ = "0.1.0"
