"""The reference project's assets: NYC flights of 2013, their features, one file per model."""
