"""Whether a deployment's JSON may hold NaN and the infinities, which JSON itself has no words for.

It is a label of the deployment: clients that write or read these literals (Python's and JavaScript's do) are known to
the one who deploys, not to the gateway.
"""

from __future__ import annotations

from mesh.v1.registry_pb2 import Deployment

LABEL = "json-non-finite"
ALLOW = "allow"


def allows_non_finite(deployment: Deployment) -> bool:
    """True when the deployment has the label `json-non-finite: allow`."""
    return deployment.labels.get(LABEL, "") == ALLOW
