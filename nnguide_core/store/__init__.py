"""The workspace: what a run is made of, in SQLite and safetensors, whole after every end of a process."""

from nnguide_core.store.belongings import RunSize
from nnguide_core.store.workspace import Given, SetAside, StoredDataset, Workspace

__all__ = ["Given", "RunSize", "SetAside", "StoredDataset", "Workspace"]
