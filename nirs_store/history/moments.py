"""Whether a workspace asks for something at a moment; cheap, because it is asked whenever a store is closed."""

from __future__ import annotations

import logging

from nirs_store.db.session import Engine
from nirs_store.errors import CatalogDamaged

__all__ = ["RETENTION", "retention_is_due"]

RETENTION = "retention"
_LOG = logging.getLogger("nirs_store.retention")


def retention_is_due(engine: Engine, moment: str) -> bool:
    """Whether the policy of a workspace is to be carried out now ("on_close", "after_run")."""
    if not engine.writable or engine.closed or engine.recorder.in_transaction:
        return False
    try:
        setting = engine.workspace_settings.current().get(RETENTION)
    except CatalogDamaged as error:
        _LOG.warning("retention was put off (%s): %s", moment.replace("_", " "), error)
        return False
    return setting is not None and setting.get("automatic") == moment
