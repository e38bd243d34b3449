"""Secrets, configs and networks as their lists show them; a secret's bytes never. Pure."""

import base64

from manager.api.wire.envelope import Json, envelope, instant
from shoal.model.objects import Config, Network, Secret


def secret_json(secret: Secret) -> Json:
    """A secret without what it is a secret of."""
    return {**envelope(secret), "Spec": _spec(secret)}


def config_json(config: Config) -> Json:
    """A config with its bytes in base64."""
    data = base64.b64encode(config.data).decode()
    return {**envelope(config), "Spec": {**_spec(config), "Data": data}}


def _spec(thing: Secret | Config) -> Json:
    spec: Json = {"Name": thing.name, "Labels": thing.labels}
    if thing.templating:
        spec["Templating"] = {"Name": thing.templating}
    return spec


def network_json(network: Network) -> Json:
    """A cluster network as the container half of the API lists networks."""
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": instant(network.created_at),
        "Scope": "swarm",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": subnet} for subnet in network.subnets],
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": network.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": network.options,
        "Labels": network.labels,
    }
