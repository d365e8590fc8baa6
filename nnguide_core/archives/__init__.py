"""Zip files from anyone, read without being unpacked."""

from nnguide_core.archives.listing import found_in
from nnguide_core.archives.zips import LIMITS, Archive, ArchiveLimits, Member, inspect, read_member

__all__ = ["LIMITS", "Archive", "ArchiveLimits", "Member", "found_in", "inspect", "read_member"]
