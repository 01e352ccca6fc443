"""Collections, token ids and files: what a source delivers, and how it is stored."""
