"""The progress bar."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from experiments.run.processes import is_first


class ProgressBar:
    """Images done, a second and still to come, and the time left; where no person watches, lines alone."""

    def __init__(self, name: str, images: int) -> None:
        self._name = name
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _ImagesPerSecond())
        console = Console(stderr=True)
        silent = not console.is_terminal or not is_first()
        self._progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            disable=silent,
            speed_estimate_period=60,
            transient=True,  # the bar disappears at the end, after Ctrl-C too
        )
        self._task = self._progress.add_task(name, total=images)

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def describe(self, what: str) -> None:
        self._progress.update(self._task, description=f"{self._name} · {what}")

    def start_at(self, images: int) -> None:
        """Counts an earlier process's images as done, without counting them in the speed."""
        self._progress.reset(self._task, completed=images)

    def advance_to(self, images: int) -> None:
        self._progress.update(self._task, completed=images)

    def say(self, sentence: str) -> None:
        """A line that stays, above the bar."""
        if self._progress.disable:
            print(sentence, flush=True)
        else:
            self._progress.console.print(sentence, highlight=False, markup=False, soft_wrap=True)


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "", style="progress.data.speed")
