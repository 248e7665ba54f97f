"""What a person or a machine reads: terminal and JSON."""
