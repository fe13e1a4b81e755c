"""Pictures of a model in use as PNG bytes: what moved, how it moved, and what it did to the metric.

Like those of an evaluation: about 700 pixels wide, the same bytes for the same numbers, without
pyplot. Times are UTC.
"""

from mlct.monitoring.plot.heat import heat_map
from mlct.monitoring.plot.over_time import timeline
from mlct.monitoring.plot.overlay import overlays

__all__ = ["heat_map", "overlays", "timeline"]
