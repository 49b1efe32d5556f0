"""The latent space of a model under the names that this room has always offered."""

from nirs_store.domain.latent import Latent, latent_of, q_limit, t2_limit

__all__ = ["Latent", "latent_of", "q_limit", "t2_limit"]
