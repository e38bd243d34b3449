"""How the agent asks for a new certificate: one unary call to the managers' CA service.

When to ask is `shoal.common.renewal`; this is the one place on the agent's side that knows
the call. The agent's composition root joins the two.
"""

from collections.abc import Callable, Sequence

import grpc.aio

from agent.asking import CALL_SECONDS, ask_in_turn
from proto import ca_pb2, ca_pb2_grpc
from shoal.common.identity import CurrentIdentity
from shoal.common.renewal import Renewed
from shoal.common.rpc import unary


class CertificateClient:
    """Asks the managers in turn; `managers` gives their addresses, the most trusted first."""

    def __init__(self, current: CurrentIdentity, managers: Callable[[], Sequence[str]]) -> None:
        self._current = current
        self._managers = managers

    async def renew(self, csr_pem: bytes) -> Renewed:
        """A certificate as this node's present identity; an `Ask` for the renewal loop."""
        request = ca_pb2.RenewRequest(csr_pem=csr_pem)

        async def ask(to: grpc.aio.Channel) -> Renewed:
            answer = await unary(ca_pb2_grpc.CAStub(to).Renew, request, seconds=CALL_SECONDS)
            return Renewed(certificate_pem=answer.certificate_pem, roots_pem=answer.roots_pem)

        return await ask_in_turn(self._current, self._managers(), ask)
