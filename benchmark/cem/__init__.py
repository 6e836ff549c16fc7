"""Conditional entropy maximisation: batched clustering, the objective in three estimators, and its exact
formula."""

from benchmark.cem.bound import conditional_entropy_bound
from benchmark.cem.mixture import Clusters, kmeans
from benchmark.cem.objective import ESTIMATORS, SCOPES, ConditionalEntropy

__all__ = ["ESTIMATORS", "SCOPES", "Clusters", "ConditionalEntropy", "conditional_entropy_bound", "kmeans"]
