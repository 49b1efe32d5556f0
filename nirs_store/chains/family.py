"""What two chains must share so that their scores may be joined in one curve or compared sample by sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Family(NamedTuple):
    """Chains that differ in the number of latent variables only."""

    target: str
    unit: str
    samples: str
    splitter: str
    seed: str
    recipe: str


def components_of(chain: Mapping[str, Any]) -> int | None:
    """Return the recorded number of latent variables, or None for a model without."""
    count = _model_parameters(chain).get("n_components")
    return count if isinstance(count, int) else None


def splitter_of(chain: Mapping[str, Any]) -> tuple[str, str]:
    """Return the splitter with its parameters but the seed, and the seed; empty where none was recorded."""
    for step in chain["steps"]:
        if step.get("operator_type") == "splitter":
            params = dict(step.get("params") or {})
            seed = json.dumps(params.pop("random_state", None))
            words = ", ".join(
                f"{name}={value}" for name, value in sorted(params.items()) if value is not None
            )
            return f"{str(step.get('operator_class')).rsplit('.', 1)[-1]}({words})", seed
    return "", ""


def samples_of(chain: Mapping[str, Any], dataset_hash: str | None = None) -> str:
    """Return what tells the samples, measured values included, from others; empty where that was not recorded."""
    return str((chain.get("metadata") or {}).get("data_hash") or dataset_hash or "")


def recipe_of(chain: Mapping[str, Any]) -> str:
    """Return the steps with all parameters but the number of latent variables and the splitter."""
    steps = []
    for step in chain["steps"]:
        if step.get("operator_type") == "splitter":
            continue
        params = dict(step.get("params") or {})
        if int(step["step_idx"]) == int(chain["model_step_idx"]):
            params.pop("n_components", None)
        steps.append([step.get("operator_class"), params])
    kind = [
        str(chain.get("preprocessings") or ""),
        str(chain["model_class"]).rsplit(".", 1)[-1],
        chain.get("branch_path"),
        chain.get("source_index"),
    ]
    return json.dumps([kind, steps], sort_keys=True, default=str)


def family_of(chain: Mapping[str, Any], dataset_hash: str | None = None) -> Family:
    """Return what a chain shares with those that differ in the number of latent variables only."""
    metadata = chain.get("metadata") or {}
    target = str(chain.get("target") or metadata.get("target") or "")
    unit = str(chain.get("target_unit") or metadata.get("target_unit") or "")
    return Family(target, unit, samples_of(chain, dataset_hash), *splitter_of(chain), recipe_of(chain))


def _model_parameters(chain: Mapping[str, Any]) -> dict[str, Any]:
    for step in chain["steps"]:
        if int(step["step_idx"]) == int(chain["model_step_idx"]):
            return dict(step.get("params") or {})
    return {}
