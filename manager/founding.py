"""`swarm init`: a new cluster out of nothing, on this host.

Makes the CAs, the data key, etcd's first member and the first objects. The node's identity is
saved last: until then a crash leaves a host that is in no cluster and may try again, with what
is left of the attempt purged. Called by the composition root on behalf of the agent.
"""

from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from manager.ca.authority import ClusterAuthority, EtcdAuthority, Subject
from manager.ca.rotation import trust_of
from manager.ca.sealed import ClusterSecrets, seal_secrets
from manager.ca.tokens import new_tokens
from manager.control.networks import ingress_network
from manager.member import EtcdHost, Member, manager_info
from manager.secret_files import ManagerFiles
from manager.store.commit import Commit
from manager.store.kv import KV
from manager.store.memory import Memory
from manager.store.sealing import Sealer, new_data_key
from shoal.common.certificates import Role, new_csr_pem, new_key_pem
from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.entropy import random_bytes
from shoal.common.etcd_holes import holes_of, text_of, version_in
from shoal.common.identity import Identity, IdentityStore, identity_of
from shoal.common.unlock_key import KEY_BYTES, unlock_key_text
from shoal.model.changes import Create, Group
from shoal.model.defaults import merged_cluster
from shoal.model.errors import FailedPrecondition
from shoal.model.ids import ClusterID, IdSource, NetworkID, NodeID
from shoal.model.objects import Cluster, Network, Node
from shoal.model.spec.cluster import EncryptionConfig, InitRequest
from shoal.model.spec.node import NodeSpec
from shoal.model.states import NodeRole
from shoal.model.validate.cluster import check_init

_log = structlog.get_logger(__name__)


class Founder:
    """Founds a cluster on this host."""

    def __init__(self, config: HostConfig, host: EtcdHost, clock: Clock, ids: IdSource) -> None:
        self._config = config
        self._host = host
        self._clock = clock
        self._ids = ids

    async def found(self, request: InitRequest, kv: KV, store: IdentityStore) -> Identity:
        """Make the cluster; returns the identity of its first node, saved."""
        check_init(request)
        now = self._clock.now()
        cluster_id, node_id = ClusterID(self._ids.new()), NodeID(self._ids.new())
        root, etcd_root = ClusterAuthority.create(now), EtcdAuthority.create(now)
        subject = Subject(
            node_id=node_id,
            role=Role.MANAGER,
            cluster_id=cluster_id,
            addresses=(self._config.address,),
        )
        files = ManagerFiles(self._config)
        etcd_key = new_key_pem()
        files.save_tls(
            certificate=etcd_root.sign(new_csr_pem(etcd_key), subject, now),
            key=etcd_key,
            roots=etcd_root.roots_pem,
        )
        data_key = new_data_key()
        files.save_data_key(data_key)
        await self._host.stop_etcd(purge_state=True)
        member = Member(self._config, node_id, cluster_id, files.tls, self._host, kv)
        status = await member.create()
        _tell_holes(status.version)
        cluster = self._cluster(request, cluster_id, root, etcd_root, Sealer(data_key))
        node = self._node(request, node_id, status.member)
        ingress = ingress_network(NetworkID(self._ids.new()), cluster, now)
        await _write(kv, self._ids, (cluster, node, ingress))
        key = new_key_pem()
        identity = identity_of(
            key_pem=key,
            certificate_pem=root.sign(new_csr_pem(key), subject, now),
            roots_pem=root.roots_pem,
        )
        store.save(identity)
        _log.info("cluster founded", cluster=cluster_id, node=node_id)
        return identity

    def _cluster(
        self,
        request: InitRequest,
        cluster: ClusterID,
        root: ClusterAuthority,
        etcd_root: EtcdAuthority,
        sealer: Sealer,
    ) -> Cluster:
        tokens = new_tokens(root.root, random_bytes)
        spec = merged_cluster(request.spec)
        if request.auto_lock_managers:
            spec = replace(spec, encryption_config=EncryptionConfig(auto_lock_managers=True))
        locks = spec.encryption_config.auto_lock_managers
        secrets = ClusterSecrets(
            ca_key=root.key_pem,
            etcd_ca_key=etcd_root.key_pem,
            worker_token=str(tokens.worker),
            manager_token=str(tokens.manager),
            unlock_key=unlock_key_text(random_bytes(KEY_BYTES)) if locks else "",
        )
        now = self._clock.now()
        return Cluster(
            id=cluster,
            created_at=now,
            updated_at=now,
            spec=spec,
            root_ca=root.roots_pem.decode(),
            trust=trust_of(root.root),
            etcd_ca=etcd_root.roots_pem.decode(),
            sealed=seal_secrets(sealer, cluster, secrets),
            default_addr_pool=request.default_addr_pool or ("10.0.0.0/8",),
            subnet_size=request.subnet_size or 24,
            data_path_port=request.data_path_port or self._config.vxlan_port,
        )

    def _node(self, request: InitRequest, node: NodeID, member: int) -> Node:
        now = self._clock.now()
        return Node(
            id=node,
            created_at=now,
            updated_at=now,
            spec=NodeSpec(role="manager", availability=request.availability or "active"),
            role=NodeRole.MANAGER,
            joined_from=self._config.address,
            manager=manager_info(self._config, member),
        )


async def _write(kv: KV, ids: IdSource, objects: Sequence[Cluster | Node | Network]) -> None:
    group = Group(tuple(Create(thing) for thing in objects), "cluster founded")
    outcome = await Commit(kv, Memory(), ids).commit([group])
    if outcome.clashed:
        raise FailedPrecondition("the store of this host holds a cluster already")


def _tell_holes(version: str) -> None:
    """Say once what is known to be wrong with this etcd; `shoal doctor` says it again."""
    for hole in holes_of(version_in(version)):
        _log.warning(
            "a known fault of this etcd",
            version=version,
            fault=hole.what,
            mended_in=text_of(hole.mended),
        )
