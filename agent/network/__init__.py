"""The network of one host: bridges, mesh to other hosts, published ports, containers' wiring.

`host_network.HostNetwork` is the only door; everything else here is behind it. IPv4 only.
"""
