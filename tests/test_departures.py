"""Departures from the published setting: their words, and the column of a frame that keeps them."""

import doctest

from benchmark import departures
from benchmark.departures import Departure, column, parted, told


def test_doctests():
    found = doctest.testmod(departures)
    assert found.attempted and not found.failed


def test_words():
    assert str(Departure("train.epochs", 2, 240)) == "train.epochs 2 (published 240)"
    assert str(Departure("data.train_images", None, 5)) == "data.train_images all (published 5)"
    assert str(Departure("train.milestones", [], [0.25, 0.5])) == "train.milestones none (published 0.25/0.5)"
    assert str(Departure("attacks.large.width", 3, 128, "default")) == "attacks.large.width 3 (default 128)"


def test_what_is_written_into_a_column_is_read_from_it():
    """Whatever the values hold: a comma, a bracket, the separator itself."""
    odd = [Departure("a.b", "x, y (z); q", "1; 2"), Departure("a.c", [1, 2], None), Departure("d", "; ", ";")]
    assert parted([column(told(odd)), column(told(odd[:1])), column([])]) == told(odd)
    assert len(told(odd)) == 3 and column(told([])) == "" and parted([""]) == []
