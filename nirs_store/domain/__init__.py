"""Whether a sample lies inside the calibration, and how sure its prediction is."""

from nirs_store.domain.measure import Domain, Measured

__all__ = ["DOMAIN", "DOMAIN_CLASS", "Domain", "Measured", "domain_id"]

#: What the artifact of a domain is called.
DOMAIN_CLASS = "nirs_store.domain.measure.Domain"
#: The key of a chain's metadata that names the artifact with its domain.
DOMAIN = "domain_artifact"


def domain_id(metadata: object) -> str | None:
    """Return the id of the artifact that holds a chain's domain; None for a chain without one."""
    found = metadata.get(DOMAIN) if isinstance(metadata, dict) else None
    return found if isinstance(found, str) and found else None
