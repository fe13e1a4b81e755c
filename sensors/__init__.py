"""The reference project's own sensors; those of each model come from mlct."""
