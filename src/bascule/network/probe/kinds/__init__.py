"""What a probe can ask, one `Stream` each.

- `stream`: what the loop asks of each of them
- `udp`: a numbered datagram to an echo service
- `connected`: a TCP connection that is made once and held; on it `tcp` (echo) and `http` (GET, read by `http_answer`)
"""
