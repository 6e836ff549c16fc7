"""Trained models that the paper's authors published: their files become finished trainings of a store.

names.py    the path of a folder -> the row and its strengths
files.py    the files -> tensors, and these -> our networks
models.py   from folders to cells, to results in the store, to tables
"""
