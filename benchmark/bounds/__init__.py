"""What theory says of a trained encoder: information that the sent feature holds, and errors no attacker gets below."""

VERSION = 1  # raise it when a change in this folder alters results: the key of every bounds job depends on it
