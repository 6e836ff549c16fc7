"""Theoretical bounds for a trained encoder: on the information in the sent feature, and on any attacker's error."""

VERSION = 1  # raise it when a change in this folder alters results: the key of every bounds job depends on it
