"""A run coordinator that knows who asked: for a webserver behind an authenticating proxy."""

from typing import Any

import dagster as dg

from mlct.defs.names import HUMAN_ONLY_TAG, PERSON_TAG


class ProxyIdentityRunCoordinator(dg.QueuedRunCoordinator[Any]):
    """Dagster's queue, with the person of each request from a header that only the proxy sets.

    In `dagster.yaml`:

        run_coordinator:
          module: mlct.defs.coordinator
          class: ProxyIdentityRunCoordinator
          config: {person_header: X-Forwarded-User}

    The person becomes the run's tag `user`, whatever the request said it was: the actor of a
    promotion, and an author of what the run trains. A run of a promotion job that comes without a
    person (a daemon, a header that is not there) fails before any code of it runs.

    As strong as the proxy that sets and strips the header. Runs that are executed without a
    webserver (`dagster job execute`) never come here: the signatures stay the authority.
    """

    def __init__(self, person_header: str = "X-Forwarded-User", **settings: Any) -> None:
        self.person_header = person_header
        super().__init__(**settings)

    @classmethod
    def config_type(cls) -> Any:
        """What `config` may hold: Dagster's own settings of the queue, and `person_header`."""
        own = {
            "person_header": dg.Field(
                str,
                is_required=False,
                default_value="X-Forwarded-User",
                description="The header with which the proxy names the person.",
            )
        }
        queue: Any = super().config_type()
        return {**queue, **own}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> Any:
        """From the checked `config` of `dagster.yaml`."""
        return cls(inst_data=inst_data, **config_value)

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        """Queue a run as the person of the request, or fail it."""
        run = context.dagster_run
        person = (context.get_request_header(self.person_header) or "").strip()
        if person or PERSON_TAG in run.tags:
            # Empty where somebody only says who he is: nothing takes a tag away.
            self._instance.add_run_tags(run.run_id, {PERSON_TAG: person})
        if HUMAN_ONLY_TAG in run.tags and not person:
            self._instance.report_run_failed(
                run,
                message=f"Only people promote: the request has no header {self.person_header}. "
                "Launch the job in the web interface, behind the proxy that says who you are.",
            )
            failed = self._instance.get_run_by_id(run.run_id)
            assert failed is not None, "a run that was submitted is there"
            return failed
        return super().submit_run(context)
