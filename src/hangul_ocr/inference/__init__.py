"""Prediction, ensembling and submission."""
