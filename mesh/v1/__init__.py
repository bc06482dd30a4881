"""Generated from protos/mesh/v1; do not edit."""
