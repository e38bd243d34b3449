"""The files a container gets of its own."""

from agent.engine import files
from shoal.model.container import HostConfig

HOSTS = (
    "search corp.example\nnameserver 192.0.2.1\nnameserver 127.0.0.53\noptions ndots:5 edns0\n"
)


def test_with_names_the_agents_server_is_asked_first_for_the_bare_name() -> None:
    assert files.resolv_conf_with_names(HOSTS, HostConfig()) == (
        "nameserver 127.0.0.11\nsearch corp.example\noptions edns0 ndots:0\n"
    )


def test_with_names_what_the_user_asks_for_counts() -> None:
    host = HostConfig(dns=("192.0.2.9",), dns_search=("one", "two"), dns_options=("ndots:2",))
    assert files.resolv_conf_with_names(HOSTS, host) == (
        "nameserver 127.0.0.11\nsearch one two\noptions ndots:2\n"
    )
    host = HostConfig(dns_search=(".",), dns_options=("rotate",))
    assert files.resolv_conf_with_names(HOSTS, host) == (
        "nameserver 127.0.0.11\noptions rotate ndots:0\n"
    )


def test_without_names_it_is_the_hosts() -> None:
    assert files.resolv_conf(HOSTS, HostConfig(), own_network=False) == (
        "nameserver 192.0.2.1\nnameserver 127.0.0.53\nsearch corp.example\n"
        "options ndots:5 edns0\n"
    )
    assert files.resolv_conf(HOSTS, HostConfig(), own_network=True).count("nameserver") == 1
    host = HostConfig(dns=("192.0.2.9",))
    assert files.resolv_conf(HOSTS, host, own_network=True).startswith(
        "nameserver 192.0.2.9\nsearch"
    )


def test_hosts_has_all_own_addresses() -> None:
    text = files.hosts("web", "", ["10.0.1.2", "fd01::2"], "172.20.0.1", ["gw:host-gateway"])
    assert text.endswith("172.20.0.1\tgw\n10.0.1.2\tweb\nfd01::2\tweb\n")
    assert "10.0.1.2\tweb.example web\n" in files.hosts("web", "example", ["10.0.1.2"], "", [])
    assert files.hosts("web", "", [], "", []).endswith("ip6-allrouters\n")
