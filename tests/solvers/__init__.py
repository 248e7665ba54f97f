"""Properties of the solvers, held against brute force."""
