"""Array mathematics without graphs: numpy and scipy only."""
