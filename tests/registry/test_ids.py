"""Chain paths and ids are written and read back, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nirs_store.artifacts.types import (
    ChainNode,
    chain_hash,
    format_chain,
    generate_artifact_id,
    normalise_fold,
    parse_artifact_id,
    parse_chain,
)
from nirs_store.errors import InvalidInput

NODES = st.builds(
    ChainNode,
    st.integers(0, 99),
    st.sampled_from(["SNV", "PCA", "PLSRegression", "a.b.MSC"]),
    st.lists(st.integers(0, 20), max_size=4).map(tuple),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
)


@settings(max_examples=50)
@given(st.lists(NODES, max_size=5))
def test_a_chain_path_is_read_back_as_it_was_written(nodes: list[ChainNode]) -> None:
    assert list(parse_chain(format_chain(nodes))) == nodes


@settings(max_examples=50)
@given(
    st.uuids().map(str),
    st.lists(NODES, min_size=1, max_size=3),
    st.sampled_from([None, 0, "fold_12", "final"]),
)
def test_an_id_is_parsed_back(pipeline: str, nodes: list[ChainNode], fold: object) -> None:
    parsed = parse_artifact_id(generate_artifact_id(pipeline, nodes, fold))
    assert (parsed.pipeline_id, parsed.chain_hash) == (pipeline, chain_hash(format_chain(nodes)))
    assert parsed.fold_id == normalise_fold(fold)


def test_the_documented_form_is_kept() -> None:
    assert (
        format_chain([ChainNode(1, "MSC"), ChainNode(2, "PCA", (0, 1), 1, 2)])
        == "s1.MSC>s2.PCA[br=0.1,src=1,sub=2]"
    )
    assert generate_artifact_id("p", "s1.MSC", 3) == f"p${chain_hash('s1.MSC')}:3"
    assert generate_artifact_id("p", "s1.MSC").endswith(":all")


@pytest.mark.parametrize("path", ["MSC", "s1.", "s1.MSC>", "s1.MSC[br=]", "s1.MSC[br=0.x]", "s1.MSC[up=1]",
                                  "s1.MSC[src=1,src=2]", "s1.M C"])  # fmt: skip
def test_what_is_no_chain_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        parse_chain(path)


@pytest.mark.parametrize(
    "text", ["", "p", "p$abc:all", "p$0123456789ab", "p$0123456789ab:x", "$0123456789ab:all", None]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not an id of the artifact layer"):
        parse_artifact_id(text)
