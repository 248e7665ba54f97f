"""`python -m onnxprune`."""

from onnxprune.cli import main

# Processes that a local cluster spawns import this module, too.
if __name__ == "__main__":
    main()
