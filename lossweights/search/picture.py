"""The picture of a sweep."""

from __future__ import annotations
