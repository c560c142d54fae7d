"""An end that is asked for: SIGTERM is noted, and the work stops where it can go on later."""

import signal
import threading

TERMINATED = 128 + signal.SIGTERM  # the exit status of a process that SIGTERM has ended


class Stop:
    """Within it SIGTERM ends nothing and sets `asked`. Only the main thread gets signals:
    in another one nothing changes."""

    asked = False

    def __enter__(self) -> "Stop":
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def _note(self, *_) -> None:
        self.asked = True
