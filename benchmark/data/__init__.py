"""Data sets as uint8 tensors: prepared once from the official files, loaded whole, augmented in batches."""

from benchmark.data.augment import augment
from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.store import describe, fingerprint, load, names, note, prepare
from benchmark.data.tensors import DataSet, ImageSet, normalise, subset, to_unit

__all__ = [
    "DATASETS",
    "DataSet",
    "ImageSet",
    "Parts",
    "Source",
    "augment",
    "describe",
    "fingerprint",
    "load",
    "names",
    "normalise",
    "note",
    "prepare",
    "subset",
    "to_unit",
]
