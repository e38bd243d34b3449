"""Whether the secrets and configs that a service names exist. Pure.

The store's guards hold it from then on: what is referred to cannot be removed.
"""

from manager.view import View
from shoal.model.ids import ConfigID, SecretID
from shoal.model.spec.service import ServiceSpec
from shoal.model.validate.refusal import invalid


def check_referents(view: View, spec: ServiceSpec) -> None:
    """Refuse a spec that names a secret or config which is not there under that name."""
    container = spec.task_template.container_spec
    if container is None:
        return
    secrets, configs = [], []
    for secret in container.secrets:
        found = view.secret(SecretID(secret.secret_id))
        if found is None or found.name != secret.secret_name:
            secrets.append(secret.secret_name)
    for config in container.configs:
        known = view.config(ConfigID(config.config_id))
        if known is None or known.name != config.config_name:
            configs.append(config.config_name)
    for kind, field, names in (("secret", "Secrets", secrets), ("config", "Configs", configs)):
        if names:
            plural = kind if len(names) == 1 else f"{kind}s"
            raise invalid(
                f"TaskTemplate.ContainerSpec.{field}", f"{plural} not found: {', '.join(names)}"
            )
