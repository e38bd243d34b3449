"""What services refer to by name or id, made ids that are there. Pure."""

import msgspec

from manager.control.lookup import find_network
from manager.view import View, ingress_of
from shoal.model.defaults import endpoint_of, is_host_port, mesh_ports
from shoal.model.errors import NotFound, PermissionDenied
from shoal.model.objects import Network
from shoal.model.spec.network import HOST, HOST_NETWORK
from shoal.model.spec.service import ServiceSpec
from shoal.model.spec.task import NetworkAttachmentConfig
from shoal.model.validate.refusal import invalid, precondition

_OF_A_HOST = ("bridge", "none", "docker_gwbridge")


def resolve_networks(view: View, spec: ServiceSpec) -> ServiceSpec:
    """The spec with its networks' ids; it must be canonical.

    Raises where a network is not there or not for services, or ports cannot be published.
    """
    template = spec.task_template
    if any(one.target in (HOST, HOST_NETWORK) for one in template.networks):
        return _on_host_network(spec)
    found: dict[str, NetworkAttachmentConfig] = {}
    for position, wanted in enumerate(template.networks):
        network = _find(view, wanted.target)
        if network.spec.ingress:
            raise invalid(
                f"TaskTemplate.Networks[{position}].Target",
                "Service cannot be explicitly attached to the ingress network"
                f' "{network.name}"',
            )
        if network.id in found:
            raise invalid(
                f"TaskTemplate.Networks[{position}].Target",
                f"network {network.name} is named twice",
            )
        found[network.id] = msgspec.structs.replace(wanted, target=network.id)
    if mesh_ports(endpoint_of(spec).ports) and ingress_of(view) is None:
        raise precondition("service needs ingress network, but no ingress network is present")
    if not found:
        return spec
    template = msgspec.structs.replace(template, networks=tuple(found.values()))
    return msgspec.structs.replace(spec, task_template=template)


def _on_host_network(spec: ServiceSpec) -> ServiceSpec:
    """A service whose tasks share their nodes' network, where they listen by themselves."""
    template = spec.task_template
    if len(template.networks) > 1:
        raise invalid(
            "TaskTemplate.Networks", "the network host goes with no other network of a service"
        )
    (one,) = template.networks
    if one.aliases:
        raise invalid(
            "TaskTemplate.Networks[0].Aliases", "there are no names on the network host"
        )
    for position, port in enumerate(endpoint_of(spec).ports):
        if not is_host_port(port) or port.published_port != port.target_port:
            raise invalid(
                f"EndpointSpec.Ports[{position}]",
                "on the network host a port can only be published as it is, with mode host:"
                f" published={port.target_port},target={port.target_port},mode=host",
            )
    own = msgspec.structs.replace(one, target=HOST_NETWORK)
    template = msgspec.structs.replace(template, networks=(own,))
    return msgspec.structs.replace(spec, task_template=template)


def _find(view: View, target: str) -> Network:
    try:
        return find_network(view, target)
    except NotFound:
        if target in _OF_A_HOST:
            raise PermissionDenied(
                f"The network {target} cannot be used with services. Only networks scoped to"
                " the swarm can be used, such as those created with the overlay driver."
            ) from None
        raise
