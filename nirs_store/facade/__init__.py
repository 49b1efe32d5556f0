"""The methods of `WorkspaceStore`, by what they are for. Each delegates; none holds SQL."""
