"""TensorBoard: in the folder of each entry, whatever else is asked for."""

from collections.abc import Mapping
from types import SimpleNamespace

from workbench.training.trackers.tracker import Tracked, Tracker


class TensorBoard:
    """Curves and scores in `training/logs/`, without this machine's name."""

    def __init__(self, tracked: Tracked) -> None:
        from tensorboard.summary.writer import event_file_writer
        from torch.utils.tensorboard import SummaryWriter

        asked, nameless = event_file_writer.socket, SimpleNamespace(gethostname=lambda: "localhost")
        event_file_writer.socket = nameless  # by which it names its file
        try:
            self.writer = SummaryWriter(log_dir=str(tracked.folder / "training" / "logs"))
        finally:
            event_file_writer.socket = asked

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracking`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, scores: Mapping[str, float]) -> None:
        """See `Tracking`."""
        for name, value in scores.items():
            self.writer.add_scalar(f"score/{name}", value)
        self.writer.close()


TRACKERS = (Tracker(name="tensorboard", package="tensorboard", begin=TensorBoard),)
