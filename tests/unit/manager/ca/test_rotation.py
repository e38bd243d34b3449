"""A change of the cluster's CA: at no moment do two nodes not trust each other."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from manager.ca.authority import ClusterAuthority, Subject
from manager.ca.rotation import (
    advanced,
    begun,
    behind,
    check_chosen,
    issuer_pem,
    roots_pem,
    signer,
    trust_of,
)
from manager.ca.sealed import ClusterSecrets
from shoal.common.certificates import Role, issuer_among, load_chain, new_csr_pem, new_key_pem
from shoal.common.identity import Identity, identity_of
from shoal.common.join_token import parse_token, root_digest
from shoal.model.errors import InvalidArgument
from shoal.model.objects import Cluster
from shoal.model.states import RotationStep
from tests.builders import make_cluster, make_node

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OLD, NEXT = ClusterAuthority.create(NOW), ClusterAuthority.create(NOW)
Step = tuple[Cluster, ClusterSecrets]


def at_rest() -> Step:
    cluster = make_cluster(root_ca=OLD.roots_pem.decode(), trust=trust_of(OLD.root))
    secrets = ClusterSecrets(
        ca_key=OLD.key_pem, etcd_ca_key=b"e", worker_token="w", manager_token="m"
    )
    return cluster, secrets


def all_steps() -> list[Step]:
    first = at_rest()
    second = begun(*first, NEXT)
    third = advanced(*second, bytes)
    return [first, second, third, advanced(*third, bytes)]


def renewed(step: Step) -> Identity:
    """What a node gets that renews its certificate in this step."""
    cluster, secrets = step
    key = new_key_pem()
    subject = Subject(node_id="n1", role=Role.WORKER, cluster_id=cluster.id)
    signed = signer(cluster, secrets).sign(new_csr_pem(key), subject, NOW)
    return identity_of(key_pem=key, certificate_pem=signed, roots_pem=roots_pem(cluster))


def trusts(one: Identity, other: Identity) -> bool:
    chain, roots = load_chain(other.certificate_pem), load_chain(one.roots_pem)
    return issuer_among(chain, roots) is not None


def test_nodes_of_a_step_and_of_the_next_trust_each_other() -> None:
    nodes = [renewed(step) for step in all_steps()]
    for one, other in pairwise(nodes):
        assert trusts(one, other)
        assert trusts(other, one)
    assert not trusts(nodes[0], nodes[-1])


def test_a_node_that_has_renewed_has_the_word_of_its_step_and_no_other() -> None:
    steps = all_steps()
    words = [cluster.trust for cluster, _ in steps]
    assert [renewed(step).trust for step in steps] == words
    assert len(set(words)) == len(words)
    follows, waits = make_node("a", trust=words[1]), make_node("b", trust=words[0])
    left = make_node("c", trust=words[0], left=True)
    assert behind(steps[1][0], [follows, waits, left]) == [waits]


def test_in_the_end_nothing_of_the_old_ca_is_left() -> None:
    cluster, secrets = all_steps()[-1]
    assert (cluster.root_ca, cluster.next_root) == (NEXT.roots_pem.decode(), "")
    assert (secrets.ca_key, secrets.next_ca_key) == (NEXT.key_pem, b"")
    assert cluster.rotation is RotationStep.NONE
    for token in (secrets.worker_token, secrets.manager_token):
        assert parse_token(token).digest == root_digest(NEXT.root)


def test_who_signed_a_node_is_known_by_its_word() -> None:
    steps = all_steps()
    signing = steps[2][0]
    early, late = (make_node("n1", trust=steps[n][0].trust) for n in (1, 2))
    assert issuer_pem(signing, early) == OLD.roots_pem.decode()
    assert issuer_pem(signing, late) == NEXT.roots_pem.decode()


def test_joining_hosts_find_the_root_of_their_token_in_every_step() -> None:
    for cluster, _ in all_steps()[:-1]:
        assert OLD.root in load_chain(roots_pem(cluster))


def test_a_ca_that_ends_soon_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="valid for a year at least"):
        check_chosen(NEXT, NOW + timedelta(days=20 * 365 - 200))
    check_chosen(NEXT, NOW)
