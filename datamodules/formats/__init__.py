"""Readers of the raw annotation formats, one file each; a bad record is named, not raised."""
