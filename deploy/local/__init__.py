"""The mesh on one machine: a supervisor, and one operating-system process per service.

It knows how a service is started, watched and stopped, never what it does: services are command lines, ready files
and the standard gRPC health service.
"""
