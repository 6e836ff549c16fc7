"""Figures of a suite for papers: SVG and PDF at single-column width, each beside its data as CSV."""
