"""How the agent asks for a new certificate: one unary call to the managers' CA service.

When to ask is `shoal.common.renewal`; this is the one place on the agent's side that knows
the call. The agent's composition root joins the two.
"""

from proto import ca_pb2, ca_pb2_grpc
from shoal.common.identity import CurrentIdentity
from shoal.common.renewal import Renewed
from shoal.common.rpc import channel, unary
from shoal.model.errors import Unavailable

CALL_SECONDS = 10.0


class CertificateClient:
    """Asks the managers in turn, starting with the one that answered last.

    `managers` is the list of the last assignment, kept up to date by its owner.
    """

    def __init__(self, current: CurrentIdentity, managers: list[str]) -> None:
        self._current = current
        self.managers = managers

    async def renew(self, csr_pem: bytes) -> Renewed:
        """A certificate as this node's present identity; an `Ask` for the renewal loop.

        Only Unavailable moves on to the next manager: a refusal is the cluster's.
        """
        trouble = Unavailable("no manager is known to renew the certificate with")
        for address in tuple(self.managers):
            try:
                answer = await self._renew_with(address, csr_pem)
            except Unavailable as error:
                trouble = error
                continue
            if address in self.managers:
                self.managers.remove(address)
                self.managers.insert(0, address)
            return answer
        raise trouble

    async def _renew_with(self, address: str, csr_pem: bytes) -> Renewed:
        async with channel(address, self._current.get()) as connection:
            answer = await unary(
                ca_pb2_grpc.CAStub(connection).Renew,
                ca_pb2.RenewRequest(csr_pem=csr_pem),
                seconds=CALL_SECONDS,
            )
        return Renewed(certificate_pem=answer.certificate_pem, roots_pem=answer.roots_pem)
