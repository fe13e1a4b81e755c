"""Jobs of a model: retrain, monitoring, drill (asset jobs), promotion and rollback (ops)."""

from mlct.defs.jobs.drill import rollback_drill_job
from mlct.defs.jobs.promotion import promotion_job
from mlct.defs.jobs.retrain import monitoring_job, retrain_job
from mlct.defs.jobs.rollback import rollback_job

__all__ = [
    "monitoring_job",
    "promotion_job",
    "retrain_job",
    "rollback_drill_job",
    "rollback_job",
]
