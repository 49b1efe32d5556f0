"""Dependencies come before what needs them; cycles and endless chains are refused."""

from __future__ import annotations

import itertools

import pytest

from nirs_store.artifacts.graph import DependencyGraph


def test_everything_comes_after_what_it_needs() -> None:
    graph = DependencyGraph()
    graph.add_dependencies("meta", ["pls", "ridge"])
    graph.add_dependencies("pls", ["msc", "pca"])
    graph.add_dependency("pca", "msc")
    graph.add_dependency("ridge", "msc")
    assert graph.resolve_dependencies("meta") == ["msc", "pca", "pls", "ridge"]
    assert graph.get_dependencies("pls") == ["msc", "pca"]
    assert graph.get_dependents("msc") == ["pls", "pca", "ridge"]
    assert graph.resolve_dependencies("unknown") == []


@pytest.mark.parametrize("links", [["a"], ["b", "a"], ["b", "c", "a"]])
def test_a_cycle_is_refused_and_nothing_is_added(links: list[str]) -> None:
    graph = DependencyGraph()
    nodes = ["a", *links]
    for this, following in list(itertools.pairwise(nodes))[:-1]:
        graph.add_dependency(this, following)
    with pytest.raises(ValueError, match="cycle"):
        graph.add_dependency(nodes[-2], "a")
    assert "a" not in graph.get_dependencies(nodes[-2])


def test_a_chain_that_is_too_deep_is_refused_not_a_recursion_error() -> None:
    graph = DependencyGraph()
    for number in range(2000):
        graph.add_dependency(f"n{number}", f"n{number + 1}")
    with pytest.raises(ValueError, match="deeper than 100"):
        graph.resolve_dependencies("n0")
    assert len(graph.resolve_dependencies("n1900")) == 100
    with pytest.raises(ValueError, match="deeper"):
        graph.resolve_dependencies("n1899")


def test_depth_counts_the_longest_way_also_through_what_was_seen_before() -> None:
    graph = DependencyGraph()
    graph.add_dependencies("a", ["c", "b"])
    graph.add_dependency("b", "c")
    graph.add_dependency("c", "d")
    assert graph.resolve_dependencies("a", max_depth=3) == ["d", "c", "b"]
    with pytest.raises(ValueError, match="deeper than 2"):
        graph.resolve_dependencies("a", max_depth=2)


def test_what_is_removed_is_needed_by_nothing() -> None:
    graph = DependencyGraph()
    graph.add_dependencies("a", ["b", "c"])
    graph.remove_artifact("b")
    assert graph.get_dependencies("a") == ["c"]
    graph.clear()
    assert graph.get_dependencies("a") == []
