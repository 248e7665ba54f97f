"""The architecture matrix: tiny random models of transformers, exported in every way, cut and compared."""
