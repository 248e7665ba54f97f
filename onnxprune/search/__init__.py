"""A plan for a goal: what each place costs and loses at each level, and which levels together reach the goal."""
