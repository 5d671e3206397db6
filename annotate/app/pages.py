"""The HTML shells: log-in, and one that Gradio (site/) or the scripts of another room fill."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel

from annotate.app.assets import ROOMS, script_modules, static_address, static_folders
from annotate.app.identity import Doorman, SignedIn, UnknownName
from annotate.app.security import csrf_token, is_csrf_token
from annotate.app.texts import best_language, languages, texts
from annotate.store.accounts import LOCAL, LoginRefused, log_out, store_name

router = APIRouter(include_in_schema=False)
_templates = Environment(
    loader=FileSystemLoader(sorted(ROOMS.glob("*/templates"))),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
LOGIN_COOKIE_S = 3600
# The longest that browsers take. When a session ends is known in the database alone, which renews it as it is used.
LASTING_COOKIE_S = 400 * 86_400
_templates.globals.update(static=static_address, modules=script_modules)
TEMPLATES_ONLY = frozenset({"lead", "figures", "columns"})  # sections of the catalogue that no script reads


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page in the reader's language."""
    language = language_of(request)
    page = _templates.get_template(template)
    root = request.app.state.settings.root_path
    html = page.render(root=root, language=language, texts=texts(language), languages=languages(), **values)
    return HTMLResponse(html, status)


def language_of(request: Request) -> str:
    return best_language(request.cookies.get("rlhf_language"), request.headers.get("accept-language"))


def set_cookie(response: Response, request: Request, name: str, value: str, seconds: float) -> None:
    """A cookie that scripts cannot read and other sites' requests do not carry."""
    secure = request.url.scheme == "https"
    response.set_cookie(
        name,
        value,
        max_age=int(seconds),
        httponly=True,
        samesite="lax",
        secure=secure,
        path=_cookie_path(request),
    )


def _cookie_path(request: Request) -> str:
    return request.app.state.settings.root_path or "/"


def shell(
    request: Request,
    page: str,
    template: str = "app.jinja",
    *,
    role: str = "labeler",
    content: Callable[[], dict[str, Any]] = dict,
) -> Response:
    """The page for whoever is signed in; to the log-in page, and back here, for anybody else.

    role: who has less is refused. content: what the template shows besides, asked for once this reader may see it.
    """
    doorman: Doorman = request.app.state.doorman
    account = doorman.session_account(request)
    if account is None:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(path)}", 303)
    words = texts(language_of(request))
    if not account.at_least(role):
        return render(request, "message.jinja", 403, message=words["page"]["lead_only"])
    boot = {
        "page": page,
        "root": doorman.settings.root_path,
        "store": store_name(doorman.database),
        "user": account.name,
        "role": account.role,
        "is_lead": account.at_least("lead"),
        "csrf": csrf_token(request.cookies[doorman.settings.cookie]),
        "texts": {name: section for name, section in words.items() if name not in TEMPLATES_ONLY},
    }
    values: dict[str, Any] = {
        "boot": boot,
        "local": account.name == LOCAL,
    }
    values["has_chat"] = request.app.state.home == "/chat"
    return render(request, template, **values, **content())


@router.get("/")
def home(request: Request) -> Response:
    doorman: Doorman = request.app.state.doorman
    signed_in = doorman.session_account(request) is not None
    return RedirectResponse(request.app.state.home if signed_in else "/login", 303)


@router.get("/favicon.ico")
def icon() -> FileResponse:
    return FileResponse(static_folders()[""] / "icon.svg")


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    """The form; nobody sees it who is signed in already, or whom a proxy or the lack of accounts lets in."""
    doorman: Doorman = request.app.state.doorman
    if doorman.session_account(request) is not None:
        return RedirectResponse(_local_path(next), 303)
    try:
        token = doorman.welcome(request)
    except UnknownName as unknown:
        words = texts(language_of(request))["login"]
        return render(request, "message.jinja", 403, message=words["unknown"].format(name=unknown))
    if token is None:
        return _login_page(request, next)
    response = RedirectResponse(_local_path(next), 303)
    set_cookie(response, request, doorman.settings.cookie, token, LASTING_COOKIE_S)
    return response


def _login_page(
    request: Request, next: str, message: str = "", status: int = 200, name: str = ""
) -> Response:
    """The form, with a token that only a reader of this page has: no other site can sign somebody in as itself."""
    secret = secrets.token_urlsafe(24)
    values = {"csrf": csrf_token(secret), "next": _local_path(next), "message": message, "name": name}
    response = render(request, "login.jinja", status, **values)
    set_cookie(response, request, _login_cookie(request), secret, LOGIN_COOKIE_S)
    return response


def _login_cookie(request: Request) -> str:
    return request.app.state.settings.cookie + "_form"


def _local_path(path: str) -> str:
    """A path on this server: never //elsewhere, a backslash that browsers read as a slash, or a control character."""
    safe = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if safe else "/"


@router.post("/login")
async def login(
    request: Request,
    name: Annotated[str, Form(max_length=200)],
    password: Annotated[str, Form(max_length=1000)],
    csrf: Annotated[str, Form(max_length=200)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Check a password; the session gets a new token, whatever cookie the browser came with."""
    words = texts(language_of(request))["login"]
    doorman: Doorman = request.app.state.doorman
    if not is_csrf_token(csrf, request.cookies.get(_login_cookie(request), secrets.token_urlsafe(8))):
        return _login_page(request, next, words["expired"], 403, name)
    try:
        token = await doorman.log_in(request, name.strip(), password)
    except LoginRefused as refused:
        if refused.wait_s > 0:
            wait = words["wait"].format(seconds=round(refused.wait_s))
            response = _login_page(request, next, wait, 429, name)
            response.headers["Retry-After"] = str(round(refused.wait_s))
            return response
        return _login_page(request, next, words["wrong"], 401, name)
    old = request.cookies.get(doorman.settings.cookie)
    if old:
        await asyncio.to_thread(log_out, doorman.database, old)
    response = RedirectResponse(_local_path(next), 303)
    response.delete_cookie(_login_cookie(request), _cookie_path(request))
    set_cookie(response, request, doorman.settings.cookie, token, LASTING_COOKIE_S)
    return response


@router.post("/logout")
def logout(request: Request, csrf: Annotated[str, Form(max_length=200)] = "") -> Response:
    doorman: Doorman = request.app.state.doorman
    token = request.cookies.get(doorman.settings.cookie, "")
    if not is_csrf_token(csrf, token):
        raise HTTPException(403, "the page is of an older session; reload it")
    log_out(doorman.database, token)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(doorman.settings.cookie, _cookie_path(request))
    return response


class Language(BaseModel):
    language: str


@router.put("/api/language")
def choose_language(request: Request, chosen: Language, account: SignedIn) -> Response:
    """Remember the language of the pages in this browser."""
    response = JSONResponse({"language": best_language(chosen.language, None)})
    set_cookie(response, request, "rlhf_language", best_language(chosen.language, None), LASTING_COOKIE_S)
    return response
