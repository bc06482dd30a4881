"""Generated from protos/mesh/orca; do not edit."""
