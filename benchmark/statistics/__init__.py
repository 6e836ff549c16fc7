"""Honest statistics over seeds: intervals, paired comparison of CEM on and off, and a verdict for each claim."""
