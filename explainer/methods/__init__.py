"""The attribution methods: one file and one row each."""

from __future__ import annotations

METHODS = {
    "leave_one_out": "explainer.methods.leave_one_out:LeaveOneOut",
    "shapley": "explainer.methods.shapley:Shapley",
}
