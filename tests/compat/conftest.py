"""What is run by other programs is not collected."""

from __future__ import annotations

collect_ignore = ["make_nirs4all.py"]
