"""How a model behaves: drift, and when to retrain."""
