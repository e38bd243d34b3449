"""All operations of one cluster together, as the composition root makes them for the API."""

import random

from manager.ca.tokens import RandomBytes
from manager.control.cluster import ClusterSettings
from manager.control.networks import Networks
from manager.control.nodes import Nodes
from manager.control.payloads import Payloads
from manager.control.services import Services
from manager.control.writing import Writer
from manager.store.barrier import Barrier
from manager.store.kv import KV
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from shoal.common.clock import Clock
from shoal.model.ids import IdSource, NodeID


class Chance:
    """Where operations get what cannot be foreseen."""

    def __init__(self, ids: IdSource, random_bytes: RandomBytes, names: random.Random) -> None:
        self.ids = ids
        self.random_bytes = random_bytes
        self.names = names


class Operations:
    """What this manager can do for its users.

    Args:
        me: this manager's node.
        store: the replicated store.
        memory: its fed copy, which reads come from.
        barrier: before reads that must show the present.
        sealer: of the cluster's data key.
    """

    def __init__(
        self,
        me: NodeID,
        store: KV,
        memory: Memory,
        barrier: Barrier,
        sealer: Sealer,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self.me = me
        self.memory = memory
        self.barrier = barrier
        writer = Writer(store, memory, barrier, chance.ids)
        self.services = Services(writer, memory, sealer, clock, chance.ids, chance.names)
        self.nodes = Nodes(writer, memory, clock)
        self.settings = ClusterSettings(writer, memory, sealer, clock, chance.random_bytes)
        self.networks = Networks(writer, memory, clock, chance.ids)
        self.payloads = Payloads(writer, memory, sealer, clock, chance.ids)
