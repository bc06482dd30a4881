"""Generated from protos/mesh/oip; do not edit."""
