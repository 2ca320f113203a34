"""Fixtures of the viewer's tests: traces to show, and a browser page to show them in."""

from tests.viewer.pages import broken, browser, busy, calm, folder, open_page, tab

__all__ = ["broken", "browser", "busy", "calm", "folder", "open_page", "tab"]
