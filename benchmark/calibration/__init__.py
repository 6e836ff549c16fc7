"""Strengths that were never published, searched so that a row without CEM meets its printed accuracy and MSE."""
