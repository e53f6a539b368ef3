"""Pure: the finalizer that keeps a ModelDeployment until its Service is as it was before.

The name is Beamlit's, so that what that controller left behind is cleaned up too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FINALIZER = "modeldeployment.beamlit.com/finalizer"


def is_held(metadata: Mapping[str, Any]) -> bool:
    return FINALIZER in (metadata.get("finalizers") or ())


def is_leaving(metadata: Mapping[str, Any]) -> bool:
    return metadata.get("deletionTimestamp") is not None


def edit_of(metadata: Mapping[str, Any], *, hold: bool) -> list[dict[str, Any]]:
    """The JSON patch that adds the finalizer, or takes it away, if the object is still as it was seen; empty if it is
    so already. An object that is being deleted takes no new one.
    """
    if is_held(metadata) == hold or (hold and is_leaving(metadata)):
        return []
    others = [each for each in metadata.get("finalizers") or () if each != FINALIZER]
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/finalizers", "value": [*others, *([FINALIZER] if hold else [])]},
    ]
