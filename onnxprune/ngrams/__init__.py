"""Back-off n-gram models: read from graphs and text, pruned, written."""
