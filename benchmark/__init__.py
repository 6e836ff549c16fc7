"""Reproducibility benchmark for defences against model inversion in split inference."""

__version__ = "0.1.0"
