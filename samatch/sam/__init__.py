"""Segment Anything: the model behind one call, its prompts, weights and cached embeddings."""
