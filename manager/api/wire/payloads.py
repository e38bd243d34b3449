"""Secrets and configs as their lists show them; a secret's bytes never. Pure."""

import base64

from manager.api.wire.envelope import Json, envelope
from shoal.model.objects import Config, Secret


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
