"""What a job has just computed, held until a page opens it: otherwise it would be computed a second time."""

import threading

from nnguide_core.evaluation import Evaluation

__all__ = ["Handover"]


class Handover:
    """Holds the newest evaluation that no page has opened yet; from any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._newest: Evaluation | None = None

    def put(self, answered: Evaluation) -> None:
        """Hold an evaluation, and let go of the one before."""
        with self._guard:
            self._newest = answered

    def take(self, question: str) -> Evaluation | None:
        """Return the evaluation of a question and let go of it; None where another one or none is held."""
        with self._guard:
            if self._newest is None or self._newest.run(1).question != question:
                return None
            taken, self._newest = self._newest, None
            return taken
