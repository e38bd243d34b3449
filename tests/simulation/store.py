"""The simulated etcd with an eye on every transaction: who wrote, and what it changed."""

import random
from collections.abc import Callable

from typing_extensions import override

from manager.store import kv
from manager.store.simulated import Faults, SimulatedEtcd, SimulatedKV

Witness = Callable[[str, int, tuple[kv.Event, ...]], None]
"""Told of each revision: the writer ("" where a lease ended), its number and its events."""


class WitnessedEtcd(SimulatedEtcd):
    """Tells a witness of each revision as it happens, before any watch shows it."""

    def __init__(self, rng: random.Random, witness: Witness) -> None:
        super().__init__(rng, Faults())
        self._witness = witness
        self._seen = 1
        self.writer = ""

    @override
    def wake_watches(self) -> None:
        """Called after whatever may have made a revision."""
        while self._seen < self.state.revision:
            self._seen += 1
            self._witness(self.writer, self._seen, self.state.events_at(self._seen))
        super().wake_watches()

    def leases(self) -> tuple[int, ...]:
        """The leases that live."""
        return tuple(self._leases)

    def lease_of(self, key: bytes) -> int:
        """The lease that a key hangs on; 0 for none."""
        found = self.state.range(key).kvs
        return found[0].lease if found else 0

    def client_of(self, manager: str) -> "ManagersKV":
        return ManagersKV(self, manager)


class ManagersKV(SimulatedKV):
    """One life of one manager at the store."""

    def __init__(self, server: WitnessedEtcd, manager: str) -> None:
        super().__init__(server)
        self._witnessed = server
        self._manager = manager

    @override
    async def txn(
        self,
        compares: tuple[kv.Compare, ...],
        success: tuple[kv.Op, ...],
        failure: tuple[kv.Op, ...] = (),
    ) -> kv.TxnResult:
        server = self._witnessed

        def done() -> kv.TxnResult:
            server.writer = self._manager
            try:
                return server.txn(compares, success, failure)
            finally:
                server.writer = ""

        return await self._mutate(done)
