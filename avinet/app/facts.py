"""How others reach a controller, as its settings say."""

from avinet.app.settings import ControllerSettings
from avinet.model.ids import ControllerName
from avinet.trust.node import NodeFacts


def facts_of(settings: ControllerSettings) -> NodeFacts:
    """How others reach this controller, by its settings."""
    store = settings.store
    own_engine = store.engine == "etcd" and not store.endpoints
    return NodeFacts(
        name=ControllerName(settings.name),
        addresses=settings.addresses,
        addresses_guessed=not settings.controller.addresses,
        ssh_port=settings.ssh.port,
        registration_port=settings.registration.port,
        reverse_port=settings.ssh.reverse_port,
        api_names=settings.api_names,
        state_client_port=store.client_port if own_engine else 0,
        state_peer_port=store.peer_port if own_engine else 0,
    )
