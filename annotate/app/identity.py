"""Who is asking. The only sources are a session in the database, a bearer token, or a proxy that was configured."""

import asyncio
import logging
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from annotate.app.security import SAFE_METHODS, is_csrf_token
from annotate.app.settings import AppSettings
from annotate.store.accounts import (
    LOCAL,
    SHARED_PAUSE_S,
    Account,
    LoginRefused,
    account_named,
    account_of_session,
    account_of_token,
    has_accounts,
    local_account,
    log_in,
    open_session,
)
from annotate.store.database import Database

LOG = logging.getLogger("rlhf.label")


def database_of(request: Request) -> Database:
    return request.app.state.store.database


def settings_of(request: Request) -> AppSettings:
    return request.app.state.settings


class Doorman:
    """Finds the account behind a request; knows nothing that is not in the database or the settings."""

    def __init__(self, database: Database, settings: AppSettings) -> None:
        self.database = database
        self.settings = settings

    def session_account(self, request: Request) -> Account | None:
        """The account of the session cookie, as long as a proxy does not name somebody else."""
        token = request.cookies.get(self.settings.cookie, "")
        account = account_of_session(self.database, token) if token else None
        if account is None or not self._admitted(account):
            return None
        if self.settings.proxy_header and self.proxy_name(request) not in (None, account.name):
            return None
        return account

    def any_account(self, request: Request) -> Account | None:
        """The account of a program's token, where the request has one, or of the session cookie."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self.token_account(token) if scheme.lower() == "bearer" else self.session_account(request)

    def token_account(self, token: str) -> Account | None:
        """The account of a program's token."""
        account = account_of_token(self.database, token.strip())
        return account if account is not None and self._admitted(account) else None

    def _admitted(self, account: Account) -> bool:
        return account.name != LOCAL or self.open_here()

    def open_here(self) -> bool:
        """Whether everybody on this machine is the administrator: nobody else can come, and no accounts were made."""
        return self.settings.local_only and not has_accounts(self.database)

    def proxy_name(self, request: Request) -> str | None:
        """Whom a trusted proxy names, None without one; what others say in that header was taken out (BehindProxy)."""
        header = self.settings.proxy_header
        return (header and request.headers.get(header)) or None

    async def log_in(self, request: Request, name: str, password: str) -> str:
        """A new session's token. Raises LoginRefused; a pause for a shared address is waited for rather than refused."""
        address = request.client.host if request.client else ""
        try:
            return await self._log_in(name, password, address)
        except LoginRefused as refused:
            if not 0 < refused.wait_s <= SHARED_PAUSE_S:
                raise
            await asyncio.sleep(refused.wait_s)
        return await self._log_in(name, password, address)

    async def _log_in(self, name: str, password: str, address: str) -> str:
        try:
            hours = self.settings.session_hours
            return await asyncio.to_thread(log_in, self.database, name, password, address, hours)
        except LoginRefused as refused:
            LOG.warning("log-in from %s refused: %s", address, refused)
            raise

    def welcome(self, request: Request) -> str | None:
        """The token of a new session for whom the proxy names, or for the only account there is; None for others.

        Raises UnknownName for a name that the proxy knows and we do not.
        """
        name = self.proxy_name(request)
        if name is not None:
            account = account_named(self.database, name)
            if account is None or not account.active or account.origin != "person":
                raise UnknownName(name)
        elif self.open_here():
            account = local_account(self.database)
        else:
            return None
        return open_session(self.database, account.name, self.settings.session_hours)


class UnknownName(Exception):
    """A proxy has let somebody in who has no account here."""


def signed_in(request: Request) -> Account:
    """Dependency: the account asking. A change by cookie needs the page's CSRF token too; raises 401 or 403."""
    doorman: Doorman = request.app.state.doorman
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        account = doorman.token_account(token)
        if account is None:
            raise HTTPException(
                401, "the token is unknown, expired or revoked", {"WWW-Authenticate": "Bearer"}
            )
        return account
    account = doorman.session_account(request)
    if account is None:
        raise HTTPException(401, "not signed in")
    if request.method not in SAFE_METHODS:
        cookie = request.cookies[doorman.settings.cookie]
        if not is_csrf_token(request.headers.get("x-csrf-token"), cookie):
            raise HTTPException(403, "the page is of an older session; reload it")
    return account


def lead(request: Request) -> Account:
    """Dependency: the account asking, which must be a lead's or an admin's; raises 403 otherwise."""
    account = signed_in(request)
    if not account.at_least("lead"):
        raise HTTPException(403, "this needs the role lead")
    return account


SignedIn = Annotated[Account, Depends(signed_in)]
Lead = Annotated[Account, Depends(lead)]
Db = Annotated[Any, Depends(database_of)]
