"""From the tidy frame of results (frame.py) to tables (render.py), differences (diff.py) and an HTML page."""
