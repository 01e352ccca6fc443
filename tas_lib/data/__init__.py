"""Collections, token ids and files: what a source gives, and how it lies on disk."""
