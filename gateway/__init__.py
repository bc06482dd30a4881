"""The one door of the mesh: HTTP and gRPC in, one gRPC call to the next hop out. It knows routes, not models."""
