"""The page: everything in a workspace, in a browser, on this machine (``nirs-store ui``).

`frame` holds requests, views and screens, `table` and `figure` draw lists and figures, `guard` says who may ask, `app`
joins them, `server` runs them. Each file of ``screens`` is one screen with its template; a new one is added to the
list in `app`.
"""

from __future__ import annotations

__all__ = ["serve"]

from nirs_store.ui.server import serve
