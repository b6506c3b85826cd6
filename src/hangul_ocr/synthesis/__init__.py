"""Rendered Korean words: fonts, words, the renderer and the sample competition."""
