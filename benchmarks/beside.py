"""What goes on beside what is measured: a load, a client that looks, each in a thread of its own."""

import threading

import attrs


@attrs.define(eq=False)
class Beside:
    """Begun and ended any number of times; what it does is ``_run``, until ``_over`` is set."""

    _over: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """In a thread."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """When what is under way is done."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError
