"""The generated assets of a model, one module each."""
