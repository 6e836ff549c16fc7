"""Answers from results, as frames: verdicts, differences, ablations, frontiers, ranks, and the audit of the paper.

Nothing here writes a file; `report` does.
"""
