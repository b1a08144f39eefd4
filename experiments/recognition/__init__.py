"""Recognition: embeddings trained on some identities, and judged on others."""
