"""The audit of the printed tables: rules that find misprints and contradictions in published.csv alone."""
