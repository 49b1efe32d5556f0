"""What needs what among artifacts: a graph without cycles, of bounded depth."""

from __future__ import annotations

from collections.abc import Iterable

from nirs_store.errors import InvalidInput

MAX_DEPTH = 100


class DependencyGraph:
    """Ids and the ids they need, in the order in which they were said.

    Examples
    --------
    >>> graph = DependencyGraph()
    >>> graph.add_dependencies("model", ["scaler", "pca"])
    >>> graph.add_dependency("pca", "scaler")
    >>> graph.resolve_dependencies("model")
    ['scaler', 'pca']
    """

    def __init__(self) -> None:
        self._needs: dict[str, dict[str, None]] = {}
        self._needed: dict[str, dict[str, None]] = {}

    def add_dependency(self, artifact_id: str, depends_on: str) -> None:
        """Say that one artifact needs another.

        Raises
        ------
        InvalidInput
            The other needs this one already, so neither could come first; nothing was added.
        """
        path = self._path(depends_on, artifact_id)
        if path is not None:
            raise InvalidInput(
                f"{artifact_id!r} cannot depend on {depends_on!r}: that would be a cycle, "
                f"{' needs '.join(repr(each) for each in [artifact_id, *path])}. Nothing was added."
            )
        self._needs.setdefault(artifact_id, {})[depends_on] = None
        self._needed.setdefault(depends_on, {})[artifact_id] = None

    def add_dependencies(self, artifact_id: str, depends_on: Iterable[str]) -> None:
        """Say that one artifact needs several others, in order."""
        for each in depends_on:
            self.add_dependency(artifact_id, each)

    def get_dependencies(self, artifact_id: str) -> list[str]:
        """Return what an artifact needs itself, in order."""
        return list(self._needs.get(artifact_id, ()))

    def get_dependents(self, artifact_id: str) -> list[str]:
        """Return what needs an artifact itself."""
        return list(self._needed.get(artifact_id, ()))

    def resolve_dependencies(self, artifact_id: str, max_depth: int = MAX_DEPTH) -> list[str]:
        """Return everything an artifact needs, itself left out, each after what it needs.

        Raises
        ------
        InvalidInput
            A path of more than `max_depth` steps.
        """
        depth: dict[str, int] = {}
        # Without recursion: a chain of a thousand must end in this error, not in Python's own.
        stack = [artifact_id]
        while stack:
            needs = self._needs.get(stack[-1], ())
            following = next((each for each in needs if each not in depth), None)
            if following is not None:
                stack.append(following)
            else:
                depth[stack.pop()] = max((depth[each] + 1 for each in needs), default=0)
        if depth[artifact_id] > max_depth:
            raise InvalidInput(
                f"The dependencies of {artifact_id!r} go deeper than {max_depth} steps; that is not a pipeline."
            )
        return list(depth)[:-1]

    def remove_artifact(self, artifact_id: str) -> None:
        """Forget an artifact and everything said about it."""
        for needed in self._needs.pop(artifact_id, ()):
            self._needed[needed].pop(artifact_id, None)
        for dependent in self._needed.pop(artifact_id, ()):
            self._needs[dependent].pop(artifact_id, None)

    def clear(self) -> None:
        """Forget everything."""
        self._needs.clear()
        self._needed.clear()

    def _path(self, start: str, goal: str) -> list[str] | None:
        """Return a way along dependencies, if there is one."""
        paths = {start: [start]}
        waiting = [start]
        while waiting:
            here = waiting.pop()
            if here == goal:
                return paths[here]
            new = [each for each in self._needs.get(here, ()) if each not in paths]
            paths.update({each: [*paths[here], each] for each in new})
            waiting += new
        return None
