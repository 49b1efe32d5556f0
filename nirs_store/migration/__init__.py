"""Bringing the work of another program into a workspace of this one."""

from nirs_store.migration.carrying import migrate_nirs4all
from nirs_store.migration.report import MigrationReport

__all__ = ["MigrationReport", "migrate_nirs4all"]
