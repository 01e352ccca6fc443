"""Metrics, significance tests and the paper's claims."""
