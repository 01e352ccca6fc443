"""Training one student: pairs, teachers, the loop, early stopping."""
