"""How the agent asks for a new certificate: one unary call to the managers' CA service.

When to ask is `shoal.common.renewal`; this is the one place on the agent's side that knows
the call. The agent's composition root joins the two.
"""

from collections.abc import Callable, Sequence

from proto import ca_pb2, ca_pb2_grpc
from shoal.common.identity import CurrentIdentity
from shoal.common.renewal import Renewed
from shoal.common.rpc import channel, unary
from shoal.model.errors import Unavailable

CALL_SECONDS = 10.0


class CertificateClient:
    """Asks the managers in turn; `managers` gives their addresses, the most trusted first."""

    def __init__(self, current: CurrentIdentity, managers: Callable[[], Sequence[str]]) -> None:
        self._current = current
        self._managers = managers

    async def renew(self, csr_pem: bytes) -> Renewed:
        """A certificate as this node's present identity; an `Ask` for the renewal loop.

        Only Unavailable moves on to the next manager: a refusal is the cluster's.
        """
        trouble = Unavailable("no manager is known to renew the certificate with")
        for address in self._managers():
            try:
                return await self._renew_with(address, csr_pem)
            except Unavailable as error:
                trouble = error
        raise trouble

    async def _renew_with(self, address: str, csr_pem: bytes) -> Renewed:
        async with channel(address, self._current.get()) as connection:
            answer = await unary(
                ca_pb2_grpc.CAStub(connection).Renew,
                ca_pb2.RenewRequest(csr_pem=csr_pem),
                seconds=CALL_SECONDS,
            )
        return Renewed(certificate_pem=answer.certificate_pem, roots_pem=answer.roots_pem)
