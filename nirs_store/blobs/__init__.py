"""Fitted objects and other payloads as immutable files, stored once each and named by their own hash."""

from __future__ import annotations

from nirs_store.blobs.backend import BlobBackend
from nirs_store.blobs.cache import ByteLRU, CacheStats
from nirs_store.blobs.serializers import Serializer, available_formats, get_serializer, register_serializer
from nirs_store.blobs.store import BlobInfo, BlobStore

__all__ = [
    "BlobBackend",
    "BlobInfo",
    "BlobStore",
    "ByteLRU",
    "CacheStats",
    "Serializer",
    "available_formats",
    "get_serializer",
    "register_serializer",
]
