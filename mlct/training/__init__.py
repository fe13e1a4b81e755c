"""How a model is made: its recipe, fitting, and the packaged files."""
