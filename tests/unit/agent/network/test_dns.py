"""Our DNS messages against dnslib, an implementation that is not ours."""

import struct

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network import dns

label = st.text("abcXYZ019-_", min_size=1, max_size=20)
name = st.lists(label, min_size=1, max_size=6).map(".".join)
v4 = st.binary(min_size=4, max_size=4)
v6 = st.binary(min_size=16, max_size=16)


def asked(qname: str, qtype: int = dns.A, size: int = 0) -> bytes:
    made = dnslib.DNSRecord(
        dnslib.DNSHeader(id=0x1234, qr=0, rd=1),
        q=dnslib.DNSQuestion(dnslib.DNSLabel(qname), qtype),
    )
    if size:
        made.add_ar(dnslib.EDNS0(udp_len=size))
    return bytes(made.pack())


@given(name, st.sampled_from([1, 12, 28, 33, 65, 255]), st.sampled_from([0, 512, 1232, 65000]))
def test_queries_are_read(qname: str, qtype: int, size: int) -> None:
    query = dns.parse(asked(qname, qtype, size))
    assert (query.name, query.type, query.kind) == (qname.lower(), qtype, dns.IN)
    assert query.size == size
    assert query.most == min(max(size, 512), 4096)
    assert dns.opcode(query) == 0


@given(name, st.lists(v4, max_size=60), st.sampled_from([0, 512, 1232]))
def test_addresses_are_understood(qname: str, found: list[bytes], size: int) -> None:
    query = dns.parse(asked(qname, dns.A, size))
    raw = dns.addresses(query, b"\x12\x34", found, query.most)
    answer = dnslib.DNSRecord.parse(raw)
    assert answer.header.id == 0x1234
    assert answer.header.qr == answer.header.ra == answer.header.rd == 1
    assert str(answer.q.qname).rstrip(".") == qname
    got = [bytes(rr.rdata.data) for rr in answer.rr]
    assert got == found[: len(got)]
    assert bool(answer.header.tc) == (len(got) < len(found))
    assert len(raw) <= query.most
    if answer.header.tc:
        assert len(raw) + 16 > query.most
    assert [rr.rtype for rr in answer.ar] == ([dns.OPT] if size else [])


@given(name, st.lists(v6, max_size=5))
def test_ipv6_addresses_are_understood(qname: str, found: list[bytes]) -> None:
    query = dns.parse(asked(qname, dns.AAAA))
    answer = dnslib.DNSRecord.parse(dns.addresses(query, b"\x12\x34", found, 4096))
    assert [bytes(rr.rdata.data) for rr in answer.rr] == found
    assert all((rr.rtype, rr.ttl, rr.rclass) == (dns.AAAA, dns.TTL, 1) for rr in answer.rr)


@given(name, name, v4, v6, st.integers(0, 65535))
def test_pointers_and_services_are_understood(
    qname: str, target: str, four: bytes, six: bytes, port: int
) -> None:
    query = dns.parse(asked(qname, dns.PTR))
    answer = dnslib.DNSRecord.parse(dns.pointer(query, b"\x12\x34", target, 4096))
    assert str(answer.rr[0].rdata.label).rstrip(".") == target
    query = dns.parse(asked(qname, dns.SRV, 4096))
    found = [dns.Service(port, target, (four, six))]
    answer = dnslib.DNSRecord.parse(dns.services(query, b"\x12\x34", found, 4096))
    assert (answer.rr[0].rdata.port, str(answer.rr[0].rdata.target).rstrip(".")) == (
        port,
        target,
    )
    extra = answer.ar[:2]
    assert [str(rr.rname).rstrip(".") for rr in extra] == [target] * 2
    assert [bytes(rr.rdata.data) for rr in extra] == [four, six]


def test_additional_records_go_first_when_room_is_short() -> None:
    query = dns.parse(asked("_http._tcp.web", dns.SRV))
    found = [dns.Service(80, f"task-{n}.net", (bytes(4),)) for n in range(12)]
    answer = dnslib.DNSRecord.parse(dns.services(query, b"\x12\x34", found, 512))
    assert (len(answer.rr), len(answer.ar), answer.header.tc) == (12, 0, 0)


@given(st.binary(max_size=80))
def test_noise_is_malformed_or_a_query(noise: bytes) -> None:
    try:
        query = dns.parse(noise)
    except dns.Malformed:
        answer = dns.malformed(noise)
        assert answer is None or dnslib.DNSRecord.parse(answer).header.rcode == 1
    else:
        assert noise[12 : 12 + len(query.question)] == query.question


@given(name, st.integers(1, 40))
def test_a_query_cut_off_is_malformed(qname: str, cut: int) -> None:
    whole = asked(qname, dns.A, 1232)
    with pytest.raises(dns.Malformed):
        dns.parse(whole[: max(0, len(whole) - cut)])


def test_answers_are_not_queries() -> None:
    answer = b"\0\1\x80\0" + struct.pack(">4H", 1, 0, 0, 0) + b"\0\0\1\0\1"
    with pytest.raises(dns.Malformed):
        dns.parse(answer)
    assert dns.malformed(answer) is None


def test_a_later_edns_is_refused() -> None:
    made = dnslib.DNSRecord.question("web")
    made.add_ar(dnslib.EDNS0(udp_len=1232, version=1))
    raw = bytes(made.pack())
    answer = dnslib.DNSRecord.parse(dns.bad_version(dns.parse(raw), raw[:2]))
    assert answer.ar[0].rtype == dns.OPT
    assert answer.ar[0].ttl >> 24 == 1  # BADVERS is 16


@given(v4, v6)
def test_addresses_of_pointers(four: bytes, six: bytes) -> None:
    from ipaddress import ip_address

    assert dns.address_of(ip_address(four).reverse_pointer) == four
    assert dns.address_of(ip_address(six).reverse_pointer) == six


@pytest.mark.parametrize(
    "wrong",
    [
        "1.2.3.in-addr.arpa",
        "x.2.3.4.in-addr.arpa",
        "256.1.1.1.in-addr.arpa",
        "1.ip6.arpa",
        "web",
    ],
)
def test_no_addresses_of_pointers(wrong: str) -> None:
    assert dns.address_of(wrong) is None


def test_foreign_answers_are_recognised() -> None:
    raw = asked("Example.com", dns.A)
    query = dns.parse(raw)
    reply = dnslib.DNSRecord.parse(raw).reply()
    reply.add_answer(*dnslib.RR.fromZone("Example.com 60 A 192.0.2.1"))
    response = bytes(reply.pack())
    assert dns.answers(response, query, b"\x12\x34")
    assert not dns.answers(response, query, b"\x12\x35")
    assert not dns.answers(raw, query, b"\x12\x34")
    other = dns.parse(asked("example.org"))
    assert not dns.answers(response, other, b"\x12\x34")
    short = dnslib.DNSRecord.parse(dns.shortened(response, query))
    assert short.header.tc == 1
    assert not short.rr
    assert dns.is_truncated(bytes(short.pack()))
