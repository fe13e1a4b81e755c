"""Things that Dagster calls."""
