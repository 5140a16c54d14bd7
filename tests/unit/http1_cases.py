"""Requests, right and wrong, by the rules of RFC 9112 and 9110: what the app sees of them, and what is answered.

Each case is the bytes of a client and the statuses of the answers; as many requests reach the app as are 200.
"""

from __future__ import annotations

from typing import NamedTuple

OK = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


class Case(NamedTuple):
    name: str
    data: bytes
    statuses: tuple[int, ...]


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bool = True, rest: bytes = b"") -> bytes:
    return b"\r\n".join([line, *([b"Host: x"] if host else []), *fields, b"", rest])


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return get(*fields, line=b"POST / HTTP/1.1", rest=body)


def chunked(body: bytes, *fields: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


GOOD = (
    Case("one request", OK, (200,)),
    Case("pipelining", OK * 3, (200,) * 3),
    Case("empty lines before a request (9112 2.2)", b"\r\n\r\n" + OK, (200,)),
    Case("a length", post(b"Content-Length: 3", body=b"abc") + OK, (200, 200)),
    Case("a length of zero", post(b"Content-Length: 0") + OK, (200, 200)),
    Case("a length with leading zeros", post(b"Content-Length: 003", body=b"abc") + OK, (200, 200)),
    Case("a length with space around it", post(b"Content-Length:  3 \t", body=b"abc") + OK, (200, 200)),
    Case("a GET with a body", get(b"Content-Length: 3", rest=b"abc") + OK, (200, 200)),
    Case("a body that looks like a request", post(b"Content-Length: %d" % len(OK), body=OK) + OK, (200, 200)),
    Case("chunks", chunked(b"3\r\nabc\r\n0\r\n\r\n") + OK, (200, 200)),
    Case("chunks in capitals", chunked(b"A\r\n0123456789\r\n0\r\n\r\n") + OK, (200, 200)),
    Case("a coding in capitals", post(b"Transfer-Encoding: Chunked", body=b"0\r\n\r\n") + OK, (200, 200)),
    Case("chunk sizes with zeros", chunked(b"0003\r\nabc\r\n000\r\n\r\n") + OK, (200, 200)),
    Case("a chunk extension", chunked(b"3;a=b\r\nabc\r\n0;c\r\n\r\n") + OK, (200, 200)),
    Case("a quoted chunk extension", chunked(b'3;a="b;c"\r\nabc\r\n0\r\n\r\n') + OK, (200, 200)),
    Case("trailers", chunked(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n") + OK, (200, 200)),
    Case("no space after the colon", get(b"A:b"), (200,)),
    Case("an empty value", get(b"A:"), (200,)),
    Case("obs-text in a value", get(b"A: caf\xe9"), (200,)),
    Case("a tab in a value", get(b"A: b\tc"), (200,)),
    Case("a host with a port", get(b"Host: example.org:8080", host=False), (200,)),
    Case("an IPv6 host", get(b"Host: [::1]:80", host=False), (200,)),
    Case("an empty host", get(b"Host:", host=False), (200,)),
    Case("absolute form", get(line=b"GET http://other.example/a?b HTTP/1.1"), (200,)),
    Case("absolute form without a path", get(line=b"GET http://other.example HTTP/1.1"), (200,)),
    Case("asterisk form", get(line=b"OPTIONS * HTTP/1.1"), (200,)),
    Case("HTTP/1.0 without a host", get(line=b"GET / HTTP/1.0", host=False), (200,)),
    Case("HTTP/1.0 kept", get(b"Connection: keep-alive", line=b"GET / HTTP/1.0") + OK, (200, 200)),
    Case("after HTTP/1.0 nothing is read", get(line=b"GET / HTTP/1.0") + OK, (200,)),
    Case("after Connection: close nothing is read", get(b"Connection: close") + OK, (200,)),
    Case("close in a list", get(b"Connection: te, Close") + OK, (200,)),
    Case("an unknown upgrade", get(b"Connection: upgrade", b"Upgrade: h2c") + OK, (200, 200)),
    Case(
        "an unknown upgrade with a body",
        post(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: %d" % len(OK), body=OK) + OK,
        (200, 200),
    ),
    Case(
        "an unknown upgrade with chunks",
        chunked(b"3\r\nabc\r\n0\r\n\r\n", b"Connection: upgrade", b"Upgrade: foo") + OK,
        (200, 200),
    ),
    Case("upgrade without its connection option", get(b"Upgrade: websocket") + OK, (200, 200)),
)

SMUGGLING = (
    Case("CL.TE", chunked(b"0\r\n\r\n" + OK, b"Content-Length: 5"), (400,)),
    Case("TE.CL", post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + OK), (400,)),
    Case("a length and an unknown coding", post(b"Content-Length: 3", b"Transfer-Encoding: x", body=b"abc"), (400,)),
    Case("TE.TE, two fields", chunked(b"0\r\n\r\n" + OK, b"Transfer-Encoding: chunked"), (400,)),
    Case("TE.TE, identity after", chunked(b"0\r\n\r\n" + OK, b"Transfer-Encoding: identity"), (400,)),
    Case(
        "TE.TE, identity before",
        post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n") + OK,
        (400,),
    ),
    Case("chunked twice", post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), (400,)),
    Case("chunked not last", post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), (400,)),
    Case("gzip, chunked", post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), (501,)),
    Case("xchunked", post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), (501,)),
    Case("identity", get(b"Transfer-Encoding: identity") + OK, (501,)),
    Case("an empty coding", post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), (400,)),
    Case("a vertical tab before the coding", post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), (400,)),
    Case("a space before the colon", post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), (400,)),
    Case("a tab before the colon", post(b"Content-Length\t: 3", body=b"abc"), (400,)),
    Case("a folded coding", post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), (400,)),
    Case("chunks in HTTP/1.0", chunked(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), (400,)),
    Case("two lengths", post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"), (400,)),
    Case("twice the same length", post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"), (400,)),
    Case("a list of lengths", post(b"Content-Length: 3, 3", body=b"abc"), (400,)),
    *(
        Case(f"the length {value!r}", post(b"Content-Length: " + value, body=b"abc"), (400,))
        for value in (b"", b"+3", b"-3", b"3 3", b"0x3", b"3_0", b"3.0", b"3;", b'"3"', b"\xb3", b"9" * 30, b"1e1")
    ),
    *(
        Case(f"the chunk size {size!r}", chunked(size + b"\r\nabc\r\n0\r\n\r\n" + OK), (400,))
        for size in (
            b"",
            b" 3",
            b"3 ",
            b"0x3",
            b"+3",
            b"-3",
            b"3_",
            b"g",
            b"f" * 17,
            b";a",
            b"3\x00",
            b"3;a\nb",
            b"3\n",
        )
    ),
    Case("chunk data too long", chunked(b"3\r\nabcd\r\n0\r\n\r\n" + OK), (400,)),
    Case("chunk data without its end", chunked(b"3\r\nabc0\r\n\r\n" + OK), (400,)),
    Case("chunks that end in LF", chunked(b"3\nabc\n0\n\n" + OK), (400,)),
    Case("a length among the trailers", chunked(b"0\r\nContent-Length: 3\r\n\r\n" + OK), (400,)),
    Case("a folded trailer", chunked(b"0\r\nA: b\r\n c\r\n\r\n" + OK), (400,)),
    Case("CONNECT", b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + OK, (501,)),
)

MALFORMED = (
    Case("lines that end in LF", b"GET / HTTP/1.1\nHost: x\n\n", (400,)),
    Case("one line that ends in LF", b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", (400,)),
    Case("a last line that ends in LF", b"GET / HTTP/1.1\r\nHost: x\r\n\n", (400,)),
    Case("a bare CR", get(b"A: b\rC: d"), (400,)),
    Case("CR CR LF", get(b"A: b\r"), (400,)),
    Case("obs-fold", get(b"A: b", b" c"), (400,)),
    Case("obs-fold by a tab", get(b"A: b", b"\tc"), (400,)),
    Case("space before the first field", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", (400,)),
    Case("no colon", get(b"abc"), (400,)),
    Case("an empty name", get(b": b"), (400,)),
    *(Case(f"the name {name!r}", get(name + b": b"), (400,)) for name in (b"a b", b"a(", b"a\x00", b"\xe9", b"a/b")),
    *(Case(f"the value {value!r}", get(b"A: b" + value), (400,)) for value in (b"\x00", b"\x01", b"\x1f", b"\x7f")),
    Case("no host", get(host=False), (400,)),
    Case("two hosts", get(b"Host: y"), (400,)),
    Case("twice the same host", get(b"Host: x"), (400,)),
    *(
        Case(f"the host {host!r}", get(b"Host: " + host, host=False), (400,))
        for host in (b"a b", b"a/b", b"a@b", b"a,b c", b"[::1", b"a:b", b"a#b", b"\xe9", b"a\\b", b"a?b")
    ),
    Case("HTTP/0.9", b"GET /\r\n\r\n", (400,)),
    Case("HTTP/2.0", get(line=b"GET / HTTP/2.0"), (505,)),
    Case("HTTP/1.2", get(line=b"GET / HTTP/1.2"), (400,)),
    Case("HTTP/11", get(line=b"GET / HTTP/11"), (400,)),
    Case("http in small letters", get(line=b"GET / http/1.1"), (400,)),
    Case("a space at the end of the line", get(line=b"GET / HTTP/1.1 "), (400,)),
    Case("a tab in the line", get(line=b"GET\t/ HTTP/1.1"), (400,)),
    Case("a space in the target", get(line=b"GET /a b HTTP/1.1"), (400,)),
    Case("no target", get(line=b"GET HTTP/1.1"), (400,)),
    Case("a relative target", get(line=b"GET a HTTP/1.1"), (400,)),
    Case("a fragment", get(line=b"GET /a#b HTTP/1.1"), (400,)),
    Case("a control character in the target", get(line=b"GET /\x01 HTTP/1.1"), (400,)),
    Case("a byte beyond ASCII in the target", get(line=b"GET /\xe9 HTTP/1.1"), (400,)),
    Case("asterisk form of a GET", get(line=b"GET * HTTP/1.1"), (400,)),
    Case("absolute form of another scheme", get(line=b"GET ftp://x/ HTTP/1.1"), (400,)),
    Case("absolute form with a user", get(line=b"GET http://u@x/ HTTP/1.1"), (400,)),
    Case("a method in small letters", get(line=b"get / HTTP/1.1"), (400,)),
    Case("an unknown method", get(line=b"FETCH / HTTP/1.1"), (400,)),
    Case("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
    Case("a good request, then nonsense", OK + b"\x00\x01\x02\r\n\r\n", (200, 400)),
    Case("HTTP/2 in clear text", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    Case("an unknown expectation", get(b"Expect: magic"), (417,)),
)

CASES = (*GOOD, *SMUGGLING, *MALFORMED)
