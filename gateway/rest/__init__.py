"""The public HTTP protocols, one file each; `gateway.routes` lists their routes."""
