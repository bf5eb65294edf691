"""The life of one uplink as a machine: where it is, and what each fact makes of that.

    stopped -> resolving -> dialing -> logging in -> saying hello -> attached
                  ^             |            (any of them) -> backing off -> resolving
                  |             +-> asking for the list -> resolving

Facts come in as inputs; what is to be done goes to ``Steps``, which also owns the timers and sockets.  Whatever was
under way in the state that is left is released before anything new is begun, so no input of the past arrives; those
that cross on the way are ignored here by name, and no pair of state and input is left undefined.
"""

import enum
from collections.abc import Callable
from typing import Protocol

import attrs
from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol

from avinet.ssh.scheduler import Priority
from avinet.wire.messages import Welcome


class UplinkState(enum.StrEnum):
    """The words for it in logs and lists."""

    STOPPED = "stopped"
    RESOLVING = "resolving"
    DIALING = "dialing"
    ASKING = "asking for the list"
    LOGGING_IN = "logging in"
    SAYING_HELLO = "saying hello"
    ATTACHED = "attached"
    BACKING_OFF = "backing off"


@attrs.frozen
class Loss:
    """Why an attempt or a session ended.  ``proven``: said by a controller whose host key was checked."""

    why: str
    retry_after_s: float | None = None
    proven: bool = False
    hopeless: bool = False
    """The controller has said that coming back soon is of no use."""


class Channel(Protocol):
    """A secure channel (``avinet.ssh.client.SecureChannel``)."""

    lost: Deferred[Exception]

    def open(self, port: int, protocol: IProtocol, *, priority: Priority) -> Deferred[IProtocol]:
        """Connect to a service."""

    def listen(self, address: str, port: int, build: Callable[[], IProtocol]) -> Deferred[None]:
        """Ask for a reverse forward."""

    def close(self) -> None:
        """End it in good order."""

    def abort(self) -> None:
        """Cut it."""


class UplinkInputs(Protocol):
    """What can happen."""

    def start(self) -> None:
        """The service starts."""

    def stop(self) -> None:
        """The service stops, or the controller has left the list."""

    def resolved(self) -> None:
        """There are addresses to dial."""

    def host_key_accepted(self) -> None:
        """It is the controller of the list that answers."""

    def host_key_unknown(self) -> None:
        """Somebody else answers, or nobody has for some rounds: the list may be old."""

    def list_changed(self) -> None:
        """A newer list says something else of this controller."""

    def logged_in(self, channel: Channel) -> None:
        """The secure channel stands."""

    def welcomed(self, welcome: Welcome) -> None:
        """The control session is attached."""

    def address_failed(self) -> None:
        """This address is of no use; there is another one to dial."""

    def lost(self, loss: Loss) -> None:
        """This attempt, or the session, is over."""

    def wait_over(self) -> None:
        """Time to try again."""


class Steps(Protocol):
    """What is to be done on entering a state."""

    def entered(self, state: UplinkState) -> None:
        """Release what was under way; ``state`` begins."""

    def resolve(self) -> None:
        """Find the addresses."""

    def dial(self) -> None:
        """Dial the next address."""

    def ask_for_list(self) -> None:
        """Fetch the membership list."""

    def greet(self, channel: Channel) -> None:
        """Open the control session."""

    def serve(self, welcome: Welcome) -> None:
        """Ask for the reverse forward."""

    def back_off(self, loss: Loss) -> None:
        """Wait."""

    def discard(self, channel: Channel) -> None:
        """Nobody waits for this channel any more."""


_builder = TypeMachineBuilder(UplinkInputs, Steps)  # type: ignore[type-abstract]  # only its type is used
_stopped = _builder.state("stopped")
_resolving = _builder.state("resolving")
_dialing = _builder.state("dialing")
_asking = _builder.state("asking for the list")
_logging_in = _builder.state("logging in")
_saying_hello = _builder.state("saying hello")
_attached = _builder.state("attached")
_backing_off = _builder.state("backing off")

_ALL = (_stopped, _resolving, _dialing, _asking, _logging_in, _saying_hello, _attached, _backing_off)


def _resolve(inputs: UplinkInputs, steps: Steps) -> None:
    steps.entered(UplinkState.RESOLVING)
    steps.resolve()


def _dial(inputs: UplinkInputs, steps: Steps) -> None:
    steps.entered(UplinkState.DIALING)
    steps.dial()


def _ask(inputs: UplinkInputs, steps: Steps) -> None:
    steps.entered(UplinkState.ASKING)
    steps.ask_for_list()


def _log_in(inputs: UplinkInputs, steps: Steps) -> None:
    # The dial goes on: nothing is released.
    steps.entered(UplinkState.LOGGING_IN)


def _greet(inputs: UplinkInputs, steps: Steps, channel: Channel) -> None:
    steps.entered(UplinkState.SAYING_HELLO)
    steps.greet(channel)


def _serve(inputs: UplinkInputs, steps: Steps, welcome: Welcome) -> None:
    steps.entered(UplinkState.ATTACHED)
    steps.serve(welcome)


def _back_off(inputs: UplinkInputs, steps: Steps, loss: Loss) -> None:
    steps.entered(UplinkState.BACKING_OFF)
    steps.back_off(loss)


def _stop(inputs: UplinkInputs, steps: Steps) -> None:
    steps.entered(UplinkState.STOPPED)


def _discard(inputs: UplinkInputs, steps: Steps, channel: Channel) -> None:
    steps.discard(channel)


_stopped.upon(UplinkInputs.start).to(_resolving)(_resolve)
_resolving.upon(UplinkInputs.resolved).to(_dialing)(_dial)
_dialing.upon(UplinkInputs.host_key_accepted).to(_logging_in)(_log_in)
_dialing.upon(UplinkInputs.host_key_unknown).to(_asking)(_ask)
_asking.upon(UplinkInputs.list_changed).to(_resolving)(_resolve)
_backing_off.upon(UplinkInputs.list_changed).to(_resolving)(_resolve)
_backing_off.upon(UplinkInputs.wait_over).to(_resolving)(_resolve)
_logging_in.upon(UplinkInputs.logged_in).to(_saying_hello)(_greet)
_saying_hello.upon(UplinkInputs.welcomed).to(_attached)(_serve)
for _state in (_dialing, _asking, _logging_in):
    _state.upon(UplinkInputs.address_failed).to(_dialing)(_dial)
for _state in _ALL:
    if _state not in (_stopped, _backing_off):
        _state.upon(UplinkInputs.lost).to(_backing_off)(_back_off)
    if _state is not _logging_in:
        _state.upon(UplinkInputs.logged_in).loop()(_discard)
    if _state is not _stopped:
        _state.upon(UplinkInputs.stop).to(_stopped)(_stop)
        _state.upon(UplinkInputs.start).loop().returns(None)

for _input, _heeded in (
    (UplinkInputs.stop, (*_ALL[1:],)),
    (UplinkInputs.resolved, (_resolving,)),
    (UplinkInputs.host_key_accepted, (_dialing,)),
    (UplinkInputs.host_key_unknown, (_dialing,)),
    (UplinkInputs.list_changed, (_asking, _backing_off)),
    (UplinkInputs.address_failed, (_dialing, _asking, _logging_in)),
    (UplinkInputs.wait_over, (_backing_off,)),
):
    for _state in _ALL:
        if _state not in _heeded:
            _state.upon(_input).loop().returns(None)
for _state in (_stopped, _backing_off):
    _state.upon(UplinkInputs.lost).loop().returns(None)
for _state in _ALL:
    if _state is not _saying_hello:
        _state.upon(UplinkInputs.welcomed).loop().returns(None)

UplinkMachine = _builder.build()
