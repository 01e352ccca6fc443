"""Tables, figures, costs, and what notebooks show."""
