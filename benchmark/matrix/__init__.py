"""The declarative matrix: paper.yaml and experiments/, their schema, and its expansion to cells and jobs."""
