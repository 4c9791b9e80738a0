"""The one exception of the image builder: what a person can act on, in one line."""

from __future__ import annotations


class ImageError(Exception):
    """Something a person must change: the message names the thing and says what to do."""
