"""Ways to run the mesh: on one machine (`deploy.local`), in containers, in a cluster. Imports no service."""
