"""The declarative matrix: matrix.yaml, its schema, and its expansion to cells and jobs."""
