"""TAS-Balanced dense retrieval: the small library behind the notebooks (Hofstätter et al., SIGIR 2021)."""
