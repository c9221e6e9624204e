"""The door for gRPC: the same calls, decisions and records as in HTTP/1.1, over `http2`."""
