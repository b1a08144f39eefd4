"""Products of embeddings in blocks: no array has a row for each query and a column for each of the gallery."""
