"""Things that mlct calls: MLflow, object stores."""
