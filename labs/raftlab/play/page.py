"""The HTML page of `raftlab play`. It uses the viewer's style and some of its modules, and adds its own."""

from __future__ import annotations

from typing import Any

import msgspec

from raftlab.viewer import page as viewer_page

# The viewer's modules that show servers and events, then the page's own modules.
_SCRIPTS = (
    ("raftlab.viewer", "words.js"),
    ("raftlab.viewer", "model.js"),
    ("raftlab.viewer", "theme.js"),
    ("raftlab.viewer", "elements.js"),
    ("raftlab.play", "names.js"),
    ("raftlab.play", "flights.js"),
    ("raftlab.play", "link.js"),
    ("raftlab.play", "stage.js"),
    ("raftlab.play", "panel.js"),
    ("raftlab.play", "main.js"),
)


def page(info: dict[str, Any]) -> tuple[bytes, str]:
    """The page of a session, and its content security policy.

    Args:
        info: what stays the same during the session, see :attr:`raftlab.play.session.Session.info`.
    """
    style = viewer_page.file("raftlab.viewer", "style.css") + viewer_page.file("raftlab.play", "play.css")
    script = viewer_page.script(_SCRIPTS)
    policy = viewer_page.policy(script, style, "connect-src 'self'; img-src data:")
    data = msgspec.json.encode(info).replace(b"<", b"\\u003c").decode()
    holes = {"policy": policy, "style": style, "script": script, "data": data}
    return viewer_page.filled(viewer_page.file("raftlab.play", "play.html"), holes), policy
