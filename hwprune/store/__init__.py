"""Where measured numbers and compiled libraries are kept: rows in SQL, libraries in a folder by their SHA-256."""

from hwprune.store.accuracies import Accuracies, Accuracy
from hwprune.store.artifacts import ArtifactStore, Collected
from hwprune.store.leases import Lease, Leases
from hwprune.store.measurements import Store, shape_key

__all__ = ["Accuracies", "Accuracy", "ArtifactStore", "Collected", "Lease", "Leases", "Store", "shape_key"]
