"""Gradio's page in our shell: its settings and scripts stand in a document of ours, under a policy without inline code."""

import re
import secrets

from fastapi import Request
from fastapi.responses import Response
from markupsafe import Markup

from annotate.app.pages import shell
from annotate.app.site.routes import Place
from rlhf.errors import RLHFError

# Gradio's components style themselves; scripts come from here only, inline ones by a number that is used once.
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; worker-src 'none'; object-src 'none'"
)
_SETTINGS = re.compile(r"<script>window\.gradio_(?:config|api_info) = .*?</script>", re.DOTALL)
_ASSET = re.compile(r'(?:src|href)="\./(assets/[\w.-]+\.(js|css))"')


def dressed(request: Request, page: str, place: Place, theirs: bytes) -> Response:
    """Our page around what Gradio answered for it. Raises RLHFError where Gradio's page is not what we know."""
    html = theirs.decode()
    settings = _SETTINGS.findall(html)
    assets = {kind: name for name, kind in _ASSET.findall(html)}
    if len(settings) != 2 or set(assets) != {"js", "css"}:
        raise RLHFError("this version of Gradio makes pages that the labeling app does not know")
    at = request.app.state.settings.root_path + place.path
    nonce = secrets.token_urlsafe(16)
    inline = [setting.replace("<script>", f'<script nonce="{nonce}">', 1) for setting in settings]
    gradio = {
        "settings": Markup("\n".join(inline)),
        "nonce": nonce,
        "script": f"{at}/{assets['js']}",
        "style": f"{at}/{assets['css']}",
    }
    template = "lead.jinja" if place.for_leads else "site.jinja"
    response = shell(request, page, template, role=place.role, content=lambda: {"gradio": gradio})
    response.headers["Content-Security-Policy"] = POLICY.format(nonce=nonce)
    return response
