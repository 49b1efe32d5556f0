"""Archives and backups, over one container."""
