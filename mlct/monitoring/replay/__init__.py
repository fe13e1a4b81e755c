"""What would a retrain policy have done? History played by the code of the real loop."""

from mlct.monitoring.replay.history import read_parquet
from mlct.monitoring.replay.play import replay
from mlct.monitoring.replay.result import Replay, Step, Track

__all__ = ["Replay", "Step", "Track", "read_parquet", "replay"]
