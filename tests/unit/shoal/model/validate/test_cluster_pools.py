import pytest

from shoal.model.errors import InvalidArgument
from shoal.model.validate.cluster import check_pools

NODES = "10.128.0.0/9"


@pytest.mark.parametrize(
    ("pools", "size"),
    [
        ((), 24),
        (("10.0.0.0/8",), 24),  # overlaps with the nodes' pool, which is left out of it
        (("172.20.0.0/16", "192.168.0.0/24"), 26),
        (("192.168.0.0/29",), 29),
    ],
)
def test_pools_that_networks_can_be_cut_from(pools: tuple[str, ...], size: int) -> None:
    check_pools(pools, size, NODES)


@pytest.mark.parametrize(
    ("pools", "size", "field", "sentence"),
    [
        ((), 30, "SubnetSize", "subnet size is out of range: 30 (1 to 29)"),
        ((), -1, "SubnetSize", "subnet size is out of range: -1"),
        (("ten",), 24, "DefaultAddrPool[0]", "invalid CIDR address: ten"),
        (("10.1.0.1/16",), 24, "DefaultAddrPool[0]", "has host bits set"),
        (("fd00::/48",), 24, "DefaultAddrPool[0]", "pools are of IPv4"),
        (
            ("10.1.0.0/16", "10.2.0.0/28"),
            24,
            "DefaultAddrPool[1]",
            "invalid CIDR: 10.2.0.0/28. Subnet size 24 is too small for the pool",
        ),
        (
            ("10.1.0.0/16", "10.0.0.0/8"),
            24,
            "DefaultAddrPool[1]",
            "10.0.0.0/8 overlaps with pool 10.1.0.0/16",
        ),
        (
            ("10.130.0.0/16",),
            24,
            "DefaultAddrPool[0]",
            "10.130.0.0/16 lies within 10.128.0.0/9, where the nodes have their own",
        ),
    ],
)
def test_other_pools_are_refused_with_the_field(
    pools: tuple[str, ...], size: int, field: str, sentence: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_pools(pools, size, NODES)
    assert refused.value.field == field
    assert sentence in str(refused.value)
