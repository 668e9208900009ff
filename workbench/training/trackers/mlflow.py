"""MLflow: where MLFLOW_TRACKING_URI says, or in `mlflow.db` of the working directory, which `mlflow ui` opens."""

import os
from collections.abc import Mapping

from workbench.training.trackers.tracker import Tracked, Tracker

LOCAL = "sqlite:///mlflow.db"
# By which a training that goes on is found again.
ID = "workbench.id"


class Mlflow:
    """A run of MLflow, in the experiment of the recipe."""

    def __init__(self, tracked: Tracked) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or LOCAL)
        known = self.client.get_experiment_by_name(tracked.project)
        experiment = known.experiment_id if known else self.client.create_experiment(tracked.project)
        before = self.client.search_runs([experiment], f"tags.`{ID}` = '{tracked.id}'", max_results=1)
        if before:
            self.run = before[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
            return
        tags = {ID: tracked.id, "group": tracked.group, "mlflow.user": ""}  # nobody's name
        self.run = self.client.create_run(experiment, tags=tags, run_name=f"{tracked.group}/{tracked.name}").info.run_id
        for name, value in tracked.settings.items():
            self.client.log_param(self.run, name, str(value)[:500])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracking`."""
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def close(self, scores: Mapping[str, float]) -> None:
        """See `Tracking`."""
        for name, value in scores.items():
            self.client.log_metric(self.run, allowed(name), value)
        self.client.set_terminated(self.run, "FINISHED" if scores else "FAILED")


def allowed(name: str) -> str:
    """A score's name as MLflow takes it: `bleu/test` of `bleu[test]`."""
    kept = "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name.replace("[", "/"))
    return kept.rstrip("_")


TRACKERS = (Tracker(name="mlflow", package="mlflow", begin=Mlflow),)
