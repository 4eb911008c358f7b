"""Retrieval: which trajectories are near, and what they say about the latents at the value step."""

from redi.retrieval.estimators import DEFAULT_WEIGHTS, ESTIMATORS, Jump, straight
from redi.retrieval.indexed import IndexedSearch
from redi.retrieval.joint import JointSearch
from redi.retrieval.opening import open_search
from redi.retrieval.partitions import Found
from redi.retrieval.search import ExactSearch
from redi.retrieval.weights import WEIGHTS

__all__ = [
    "DEFAULT_WEIGHTS",
    "ESTIMATORS",
    "WEIGHTS",
    "ExactSearch",
    "Found",
    "IndexedSearch",
    "JointSearch",
    "Jump",
    "open_search",
    "straight",
]
