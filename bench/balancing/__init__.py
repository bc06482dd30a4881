"""A simulator of replicas behind gateways, which drives the policies of mesh.balancing in virtual time."""
