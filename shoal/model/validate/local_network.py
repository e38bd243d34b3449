"""The rules of a network of one host: bridge, macvlan, ipvlan. Pure; the agent calls it."""

import re
from collections.abc import Callable, Mapping

from shoal.model.errors import InvalidArgument, NotFound, Unimplemented
from shoal.model.spec.network import MTU, NetworkSpec
from shoal.model.validate.limits import check_limits
from shoal.model.validate.network import (
    LEAST_MTU,
    MOST_MTU,
    check_ipam,
    check_name,
    check_number,
)
from shoal.model.validate.refusal import OF_HOST
from shoal.model.validate.settings import check_label_names

BRIDGE_OPTION = "com.docker.network.bridge."
ICC = f"{BRIDGE_OPTION}enable_icc"
MASQUERADE = f"{BRIDGE_OPTION}enable_ip_masquerade"
BRIDGE_NAME = f"{BRIDGE_OPTION}name"
PARENT = "parent"
MACVLAN_MODES = ("bridge", "private", "vepa", "passthru")
IPVLAN_FLAGS = ("bridge", "private", "vepa")
_FALSE = ("false", "0", "f", "False", "FALSE", "F")
_TRUE = ("true", "1", "t", "True", "TRUE", "T")
_PREFIX = "rpc error: code = "
_LONGEST_LINK = 15


def check_local_network(spec: NetworkSpec) -> None:
    """Refuse a network that a host could not make.

    Raises:
        InvalidArgument, Unimplemented, NotFound, PermissionDenied: it names the field.
    """
    try:
        _check(spec)
    except InvalidArgument as error:
        raise InvalidArgument(_plain(str(error)), field=error.field) from None
    except Unimplemented as error:
        raise Unimplemented(_plain(str(error))) from None


def truth(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A switch among the options."""
    return options[name] in _TRUE if name in options else default


def _plain(sentence: str) -> str:
    """Without the words of the cluster's half of the API."""
    return sentence.partition(" desc = ")[2] if sentence.startswith(_PREFIX) else sentence


def _check(spec: NetworkSpec) -> None:
    check_limits(spec)
    check_name(re.sub(r"\b \b", "_", spec.name))  # Docker's own networks may have spaces
    if spec.scope not in ("", "local"):
        raise InvalidArgument(f"Scope: {spec.scope!r} is not local or swarm", field="Scope")
    if spec.config_only or spec.config_from.network:
        field = "ConfigOnly" if spec.config_only else "ConfigFrom"
        raise Unimplemented(
            f"{field}: networks made of a configuration are not supported: give the options"
        )
    if spec.enable_ipv4 is False:
        raise Unimplemented("EnableIPv4: networks without IPv4 are not supported")
    check_label_names(spec.labels, "Labels", OF_HOST)
    check_options = _DRIVERS.get(spec.driver)
    if check_options is None:
        raise NotFound(
            f'plugin "{spec.driver}" not found: networks are bridge, macvlan, ipvlan or overlay'
        )
    check_ipam(spec.ipam, ipv6=spec.enable_ipv6)
    families = [4 if "." in each.subnet else 6 for each in spec.ipam.config if each.subnet]
    if spec.driver not in ("", "bridge") and 4 not in families:
        raise InvalidArgument(
            f"IPAM.Config: a {spec.driver} network needs the subnet of its parent",
            field="IPAM.Config",
        )
    check_options(spec)


def _check_bridge(spec: NetworkSpec) -> None:
    for name, value in spec.options.items():
        path = f"Options.{name}"
        if name in (ICC, MASQUERADE):
            _check_switch(path, value)
        elif name == MTU:
            check_number(value, path, LEAST_MTU[6 if spec.enable_ipv6 else 4], MOST_MTU)
        elif name == BRIDGE_NAME:
            raise Unimplemented(
                f"{path}: bridges are named by Shoal, so that it finds them again: leave it out"
            )
        else:
            raise _unknown(path, "bridge", (ICC, MASQUERADE, MTU))


def _check_switch(path: str, value: str) -> None:
    if value not in (*_TRUE, *_FALSE):
        raise InvalidArgument(f"{path}: {value!r} is neither true nor false", field=path)


def _check_macvlan(spec: NetworkSpec) -> None:
    _check_child(spec, {"macvlan_mode": MACVLAN_MODES})


def _check_ipvlan(spec: NetworkSpec) -> None:
    if spec.options.get("ipvlan_mode") in ("l3", "l3s"):
        raise Unimplemented(
            "Options.ipvlan_mode: only l2 is supported: l3 needs routes on the parent's network"
        )
    _check_child(spec, {"ipvlan_mode": ("l2",), "ipvlan_flag": IPVLAN_FLAGS})


def _check_child(spec: NetworkSpec, choices: Mapping[str, tuple[str, ...]]) -> None:
    parent = spec.options.get(PARENT, "")
    if not parent:
        raise InvalidArgument(
            f"Options.parent: a {spec.driver} network needs a link of this host to stand on,"
            " such as -o parent=eth0",
            field="Options.parent",
        )
    if len(parent) > _LONGEST_LINK:
        raise InvalidArgument(
            f"Options.parent: {parent!r} is no name of a link", field="Options.parent"
        )
    for name, value in spec.options.items():
        path = f"Options.{name}"
        if name == MTU:
            check_number(value, path, LEAST_MTU[6 if spec.enable_ipv6 else 4], MOST_MTU)
        elif name in choices:
            if value not in choices[name]:
                raise InvalidArgument(
                    f"{path}: {value!r} is none of {', '.join(choices[name])}", field=path
                )
        elif name != PARENT:
            raise _unknown(path, spec.driver, (PARENT, MTU, *choices))


def _unknown(path: str, driver: str, known: tuple[str, ...]) -> InvalidArgument:
    names = ", ".join(known)
    return InvalidArgument(f"{path}: {driver} networks know only {names}", field=path)


_DRIVERS: Mapping[str, Callable[[NetworkSpec], None]] = {
    "": _check_bridge,
    "bridge": _check_bridge,
    "macvlan": _check_macvlan,
    "ipvlan": _check_ipvlan,
}
