"""``python -m nirs_store`` is the command ``nirs-store``."""

from __future__ import annotations

from nirs_store.cli import main

if __name__ == "__main__":
    main()
