"""Who may log in as what: accounts, passwords, sessions and tokens. Secrets are stored as hashes only."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, or_, select, update

from annotate.store.database import Database, DatabaseDown, retried, storable
from annotate.store.schema import ApiToken, Labeler, LoginFailure, Session
from rlhf.errors import LabelError

ROLES = ("labeler", "lead", "admin")
LOCAL = "local"
MIN_PASSWORD = 8
FAILURES_PER_NAME, FAILURES_PER_ADDRESS, THROTTLE_S = 5, 20, 15 * 60.0
SHARED_PAUSE_S = 2.0  # an address may be that of a whole office: it is slowed down, never shut out
# Verified where a name is unknown, so that the time an answer takes does not tell which names exist.
DECOY = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$Rb2m0Nl7hQIUbqkQOoQ1v6C1x1nGmDqkqtOFn3mvN1k"


COLUMNS = (Labeler.id, Labeler.name, Labeler.role, Labeler.origin, Labeler.active)
# Statements of every request are built once: that takes SQLAlchemy longer than SQLite takes to answer them.
BY_NAME = select(Labeler.id).where(Labeler.name == bindparam("name"))
BY_NAME_LOCKED = BY_NAME.with_for_update(key_share=True)
SESSION = (
    select(Session.created, Session.expires, *COLUMNS)
    .join(Labeler, Labeler.id == Session.labeler_id)
    .where(
        Session.token_sha256 == bindparam("token_sha256"), Session.expires > bindparam("now"), Labeler.active
    )
)
TOKEN = (
    select(*COLUMNS)
    .join(ApiToken, ApiToken.labeler_id == Labeler.id)
    .where(
        ApiToken.token_sha256 == bindparam("token_sha256"),
        ApiToken.revoked.is_(None),
        or_(ApiToken.expires.is_(None), ApiToken.expires > bindparam("now")),
        Labeler.active,
    )
)


class LoginRefused(LabelError):
    """Name or password is wrong, or there were too many attempts: then `wait_s` is positive."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Account:
    """A labeler, lead or admin. origin: person, simulated, or imported (known from a file only)."""

    id: int
    name: str
    role: str
    origin: str
    active: bool

    def at_least(self, role: str) -> bool:
        """Whether the role is this one or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def labeler_id(connection: Connection, name: str, lock: bool = False) -> int:
    """An account's id; `lock` makes one account's writes follow each other. Raises LabelError for an unknown name."""
    found = connection.execute(BY_NAME_LOCKED if lock else BY_NAME, {"name": name}).scalar()
    if found is None:
        raise LabelError(f"labeler {name}: no such account; make it with rlhf labels user add {name}")
    return found


@retried
def add_account(database: Database, name: str, password: str | None = None, role: str = "labeler") -> Account:
    """Make a person's account; without a password only a proxy that signs people in can open it.

    An account that an import made becomes a person's. Raises LabelError for a taken name or a short password.
    """
    hashed = _hashed(password)
    with database.write() as connection:
        return _make_account(connection, name, hashed, role)


@retried
def add_accounts(
    database: Database, passwords: Mapping[str, str], token_label: str | None = None
) -> dict[str, str]:
    """Make labelers' accounts, all or none; with token_label a token for each, returned by the names given.

    Raises LabelError as `add_account`.
    """
    hashed = {name: _hashed(password) for name, password in passwords.items()}
    tokens = {}
    with database.write() as connection:
        for name, password_hash in hashed.items():
            account = _make_account(connection, name, password_hash, "labeler")
            if token_label is not None:
                tokens[name] = _make_token(connection, account.id, token_label, None)
    return tokens


def _make_account(connection: Connection, name: str, password_hash: str, role: str) -> Account:
    name = storable(name).strip()
    if not name or len(name) > 200 or role not in ROLES:
        raise LabelError(f"account {name!r}, role {role!r}: give a name and one of {', '.join(ROLES)}")
    values = {"role": role, "origin": "person", "active": True, "password_hash": password_hash}
    known = connection.execute(select(Labeler.id, Labeler.origin).where(Labeler.name == name)).first()
    if known is None:
        connection.execute(insert(Labeler), [{"name": name, "created": time.time(), **values}])
    elif known.origin == "imported":
        connection.execute(update(Labeler).where(Labeler.id == known.id).values(**values))
    else:
        raise LabelError(f"account {name}: is there already; choose another name")
    return _account(connection, Labeler.name == name)  # type: ignore[return-value]


def _hashed(password: str | None) -> str:
    if password is None:
        return ""
    if len(password) < MIN_PASSWORD:
        raise LabelError(f"a password has at least {MIN_PASSWORD} characters")
    return _hasher().hash(password)


def _hasher() -> Any:
    try:
        from argon2 import PasswordHasher
    except ImportError:
        raise LabelError("passwords need the package argon2-cffi; install rlhf-loop[label]") from None
    return PasswordHasher()


def _account(connection: Connection, condition: Any) -> Account | None:
    row = connection.execute(select(*COLUMNS).where(condition)).first()
    return Account(*row) if row else None


def account_named(database: Database, name: str) -> Account | None:
    with database.read() as connection:
        return _account(connection, Labeler.name == name)


def accounts(database: Database) -> list[Account]:
    """Every account, oldest first."""
    with database.read() as connection:
        return [Account(*row) for row in connection.execute(select(*COLUMNS).order_by(Labeler.id))]


def store_name(database: Database) -> str:
    """What tells this label store from any other: its first account, which stays, and when that was made."""
    query = select(Labeler.name, Labeler.created).order_by(Labeler.id).limit(1)
    with database.read() as connection:
        first = connection.execute(query).first()
    return _sha256(f"{first.name} {first.created!r}")[:16] if first else ""


def has_accounts(database: Database) -> bool:
    """Whether accounts were made, enabled or not; where none were, the app serves this machine only."""
    with database.read() as connection:
        query = select(Labeler.id).where(Labeler.password_hash.is_not(None)).limit(1)
        return connection.execute(query).first() is not None


@retried
def local_account(database: Database) -> Account:
    """The administrator of an app without accounts, made on first use."""
    with database.write() as connection:
        found = _account(connection, Labeler.name == LOCAL)
        if found is None:
            row = {"name": LOCAL, "role": "admin", "origin": "person", "active": True, "created": time.time()}
            connection.execute(insert(Labeler), [row])
            found = _account(connection, Labeler.name == LOCAL)
        return found  # type: ignore[return-value]


def set_password(database: Database, name: str, password: str) -> None:
    """Change a password and end the account's sessions."""
    _change(database, name, password_hash=_hashed(password))


def set_role(database: Database, name: str, role: str) -> None:
    if role not in ROLES:
        raise LabelError(f"role {role!r}: choose one of {', '.join(ROLES)}")
    _change(database, name, role=role)


def set_active(database: Database, name: str, active: bool) -> None:
    """Let an account in or keep it out; its answers stay."""
    _change(database, name, active=active)


@retried
def _change(database: Database, name: str, **values: Any) -> None:
    with database.write() as connection:
        number = labeler_id(connection, name)
        connection.execute(update(Labeler).where(Labeler.id == number).values(**values))
        connection.execute(delete(Session).where(Session.labeler_id == number))


@retried
def log_in(database: Database, name: str, password: str, address: str, hours: float = 12.0) -> str:
    """A new session's token. Raises LoginRefused, alike for an unknown name and a wrong password, and when throttled."""
    name, address, now = storable(name)[:200], storable(address)[:100], time.time()
    with database.write() as connection:
        _refuse_throttled(connection, name, address, now)
        # Counted before it is checked, so that many tries at once are no more tries than one after the other.
        connection.execute(delete(LoginFailure).where(~LoginFailure.created.between(*_recent(now))))
        connection.execute(insert(LoginFailure), [{"name": name, "address": address, "created": now}])
        query = select(Labeler.id, Labeler.password_hash, Labeler.active).where(Labeler.name == name)
        row = connection.execute(query).first()
    if not _verified(row, password):
        raise LoginRefused("name or password is wrong")
    with database.write() as connection:
        connection.execute(delete(LoginFailure).where(LoginFailure.name == name))
    return open_session(database, name, hours)


def _refuse_throttled(connection: Connection, name: str, address: str, now: float) -> None:
    def failures(condition: Any) -> Any:
        times = (func.count(), func.min(LoginFailure.created), func.max(LoginFailure.created))
        recent = LoginFailure.created.between(*_recent(now))
        return connection.execute(select(*times).where(condition, recent)).one()

    count, first, _ = failures(LoginFailure.name == name)
    wait_s = min(max(1.0, first + THROTTLE_S - now), THROTTLE_S) if count >= FAILURES_PER_NAME else 0.0
    count, _, last = failures(LoginFailure.address == address)
    if count >= FAILURES_PER_ADDRESS:
        wait_s = max(wait_s, min(last + SHARED_PAUSE_S - now, SHARED_PAUSE_S))
    if wait_s > 0:
        raise LoginRefused(f"too many attempts; try again in {wait_s:.0f} seconds", wait_s)


def _recent(now: float) -> tuple[float, float]:
    """When failures were that count. One of a time that has not come was written while a clock was wrong."""
    return now - THROTTLE_S, now + THROTTLE_S


def _verified(row: Row[int, str | None, bool] | None, password: str) -> bool:
    hasher = _hasher()
    from argon2.exceptions import Argon2Error, InvalidHashError

    known = row is not None and row.active and bool(row.password_hash)
    try:
        hasher.verify(row.password_hash if known and row is not None else DECOY, password)
    except (Argon2Error, InvalidHashError):
        return False
    return known


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@retried
def open_session(database: Database, name: str, hours: float = 12.0) -> str:
    """A session's token without asking for a password: for a proxy that has checked who it is."""
    token, now = secrets.token_urlsafe(32), time.time()
    with database.write() as connection:
        connection.execute(delete(Session).where(Session.expires <= now))
        row = {"token_sha256": _sha256(token), "labeler_id": labeler_id(connection, name)}
        connection.execute(insert(Session), [{**row, "created": now, "expires": now + 3600 * hours}])
    return token


def account_of_session(database: Database, token: str) -> Account | None:
    """Whose session this is; None once it has expired or ended. One more than half over is renewed."""
    now = time.time()
    with database.read() as connection:
        session = connection.execute(SESSION, {"token_sha256": _sha256(token), "now": now}).first()
    account = session and Account(*session[2:])
    if session and session.expires - now < (session.expires - session.created) / 2:
        lifetime = session.expires - session.created
        renewal = update(Session).where(Session.token_sha256 == _sha256(token), Session.expires > now)
        with suppress(DatabaseDown), database.write() as connection:  # at a later request then
            connection.execute(renewal.values(created=now, expires=now + lifetime))
    return account or None


def log_out(database: Database, token: str) -> None:
    with database.write() as connection:
        connection.execute(delete(Session).where(Session.token_sha256 == _sha256(token)))


def add_token(database: Database, name: str, label: str, days: float | None = None) -> str:
    """A token for the REST endpoints, valid for `days` or until it is revoked; it cannot be shown again."""
    with database.write() as connection:
        return _make_token(connection, labeler_id(connection, name), label, days)


def _make_token(connection: Connection, owner: int, label: str, days: float | None) -> str:
    token, now = "rlhf_" + secrets.token_urlsafe(32), time.time()
    expires = None if days is None else now + 86400 * days
    row = {"labeler_id": owner, "name": storable(label)[:200], "created": now}
    connection.execute(insert(ApiToken), [{**row, "token_sha256": _sha256(token), "expires": expires}])
    return token


def account_of_token(database: Database, token: str) -> Account | None:
    """Whose token this is; None for one that is unknown, expired or revoked."""
    with database.read() as connection:
        row = connection.execute(TOKEN, {"token_sha256": _sha256(token), "now": time.time()}).first()
    return Account(*row) if row else None


def tokens(database: Database, name: str) -> list[dict[str, Any]]:
    """id, label, created, expires and revoked of an account's tokens, newest first."""
    columns = (
        ApiToken.id,
        ApiToken.name.label("label"),
        ApiToken.created,
        ApiToken.expires,
        ApiToken.revoked,
    )
    with database.read() as connection:
        mine = select(*columns).where(ApiToken.labeler_id == labeler_id(connection, name))
        return [dict(row._mapping) for row in connection.execute(mine.order_by(ApiToken.id.desc()))]


def revoke_token(database: Database, token_id: int, name: str) -> None:
    """End one of an account's own tokens."""
    with database.write() as connection:
        mine = and_(ApiToken.id == token_id, ApiToken.labeler_id == labeler_id(connection, name))
        if not connection.execute(update(ApiToken).where(mine).values(revoked=time.time())).rowcount:
            raise LabelError(f"token {token_id}: {name} has no such token")
