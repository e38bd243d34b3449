"""Who answers names and virtual IPs inside containers, as the host's network calls it."""

from typing import Protocol

from agent.network.desired import ClusterNetworks, Endpoint


class Naming(Protocol):
    """Names and virtual IPs of the containers of this host. Errors fail what called it."""

    async def opened(self, endpoint: Endpoint, netns: str) -> None:
        """A container is on these networks; `netns` is the path of its namespace.

        Said before its first process runs, again when it joins or leaves a network, and after
        a restart of the agent, when what stands in the namespace is to be taken over.
        """
        ...

    async def closed(self, container: str) -> None:
        """The container is about to be gone. Idempotent."""
        ...

    async def changed(self, networks: ClusterNetworks) -> None:
        """What managers say of the cluster networks; returns when all containers have it."""
        ...
