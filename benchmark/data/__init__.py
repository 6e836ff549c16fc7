"""Data sets as uint8 tensors: prepared once from the official files, loaded whole, augmented in batches."""

from benchmark.data.augment import augment
from benchmark.data.base import DATASETS, Parts, Source
from benchmark.data.store import departures, describe, fingerprint, load, names, prepare
from benchmark.data.tensors import DataSet, ImageSet, balanced, normalise, require_images, subset, to_unit

__all__ = [
    "DATASETS",
    "DataSet",
    "ImageSet",
    "Parts",
    "Source",
    "augment",
    "balanced",
    "departures",
    "describe",
    "fingerprint",
    "load",
    "names",
    "normalise",
    "prepare",
    "require_images",
    "subset",
    "to_unit",
]
