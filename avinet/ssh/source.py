"""The producer that feeds a channel: a push producer is paused and resumed, a pull producer asked for each piece."""

from collections.abc import Callable

from twisted.internet.interfaces import IProducer, IPullProducer, IPushProducer


class Source:
    """Of one channel; empty until a producer is registered."""

    __slots__ = ("_paused", "_producer", "_streaming", "produce_into")

    def __init__(self) -> None:
        self._producer: IPushProducer | IPullProducer | None = None
        self._streaming = False
        self._paused = False
        self.produce_into: Callable[[memoryview], int] | None = None
        """Of a pull producer that writes in place (``channel_protocols.ViewProducer``)."""

    def register(self, producer: IProducer, *, streaming: bool) -> None:
        """``RuntimeError`` when there is one."""
        if self._producer is not None:
            raise RuntimeError("a producer is already registered")
        self._producer = producer  # type: ignore[assignment]  # IProducer is one of the two
        self._streaming, self._paused = streaming, False
        self.produce_into = None if streaming else getattr(producer, "produce_into", None)

    def drop(self) -> IPushProducer | IPullProducer | None:
        """There is none any more; the one there was."""
        producer, self._producer = self._producer, None
        return producer

    def __bool__(self) -> bool:
        return self._producer is not None

    @property
    def pulls(self) -> bool:
        """Whether it has to be asked for each piece."""
        return self._producer is not None and not self._streaming

    def pull(self) -> None:
        """Ask for a piece."""
        self._producer.resumeProducing()  # type: ignore[union-attr]  # it pulls

    def turn(self, *, blocked: bool) -> Callable[[], None] | None:
        """What to call so that a push producer waits while ``blocked`` and goes on when not; None when it does."""
        producer = self._producer
        if producer is None or not self._streaming or blocked == self._paused:
            return None
        self._paused = blocked
        return producer.pauseProducing if blocked else producer.resumeProducing  # type: ignore[union-attr]  # streaming
