"""What needs what among artifacts: a graph without cycles, of bounded depth."""

from __future__ import annotations

from collections.abc import Iterable

from nirs_store.errors import InvalidInput

__all__ = ["MAX_DEPTH", "DependencyGraph"]

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
        """Give what an artifact needs itself, in order."""
        return list(self._needs.get(artifact_id, ()))

    def get_dependents(self, artifact_id: str) -> list[str]:
        """Give what needs an artifact itself."""
        return list(self._needed.get(artifact_id, ()))

    def resolve_dependencies(self, artifact_id: str, max_depth: int = MAX_DEPTH) -> list[str]:
        """Give everything an artifact needs, itself left out, each after what it needs.

        Raises
        ------
        InvalidInput
            A cycle, or a path of more than `max_depth` steps.
        """
        order: dict[str, None] = {}
        depth: dict[str, int] = {}
        trail: list[str] = [artifact_id]
        stack = [iter(self.get_dependencies(artifact_id))]
        heights: list[int] = [0]
        # Without recursion: a chain of a thousand must end in this error, not in Python's own.
        while stack:
            following = next(stack[-1], None)
            if following is None:
                done, height = trail.pop(), heights.pop()
                stack.pop()
                depth[done] = height
                if stack:
                    order.setdefault(done)
                    heights[-1] = max(heights[-1], height + 1)
            elif following in trail:
                raise InvalidInput(f"The dependencies of {artifact_id!r} form a cycle through {following!r}.")
            elif following in depth:
                heights[-1] = max(heights[-1], depth[following] + 1)
            else:
                trail.append(following)
                heights.append(0)
                stack.append(iter(self.get_dependencies(following)))
            if len(trail) - 1 > max_depth or (heights and len(trail) - 1 + heights[-1] > max_depth):
                raise InvalidInput(
                    f"The dependencies of {artifact_id!r} go deeper than {max_depth} steps; that is no pipeline."
                )
        return list(order)

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
        """Find a way along dependencies, if there is one."""
        came: dict[str, str | None] = {start: None}
        waiting = [start]
        while waiting:
            here = waiting.pop()
            if here == goal:
                path: list[str] = []
                step: str | None = here
                while step is not None:
                    path.append(step)
                    step = came[step]
                return path[::-1]
            for following in self._needs.get(here, ()):
                if following not in came:
                    came[following] = here
                    waiting.append(following)
        return None
