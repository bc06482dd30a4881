"""What the containers of deploy/compose.yaml need beside the services: their deployments, and a health probe."""
