"""From texts to runs: models, encoding, exact search, BM25, fusion, re-ranking, docT5query."""
