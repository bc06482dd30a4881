"""Many calls over one gRPC stream, so that what is ready together travels in one message.

A message costs 30 to 50 µs of CPU at each end, whatever is in it, and an engine step makes one for every sequence; a
unary call of its own costs 160 to 200 µs at each end. Here they share messages. To callers and handlers nothing
changes: `channel` stands in for a gRPC channel, `servicer` runs the same handlers, and with a peer that knows no
multiplexing each call is its own, as ever.
"""

from __future__ import annotations

# Responses that a call may send before its reader has taken any, as protos/mesh/v1/multiplex.proto says. A reader
# that stops stops its own call, and nobody else's.
INITIAL_CREDIT = 128

# Larger requests go as calls of their own: joined to others they would be copied once more at each end, and hold up
# the small ones behind them.
MAX_SHARED_REQUEST_BYTES = 64 << 10
