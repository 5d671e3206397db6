"""Accounts that a lead makes for others, lets in or keeps out, and gives new passwords."""

import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from annotate.labels import LabelStore
from annotate.store.accounts import (
    Account,
    account_named,
    accounts,
    add_accounts,
    set_active,
    set_password,
)
from annotate.store.database import Database, storable
from rlhf.errors import LabelError

PASSWORD_BYTES = 12


class PeopleIn(BaseModel):
    """names: of accounts to be made, labelers' all. tokens: a token for each as well, for scripts that act as them."""

    model_config = ConfigDict(extra="forbid")
    names: list[str] = Field(min_length=1, max_length=200)
    tokens: bool = False


class PersonIn(BaseModel):
    """active: whether the account is let in. new_password: give it another one, which ends its sessions."""

    model_config = ConfigDict(extra="forbid")
    active: bool | None = None
    new_password: bool = False


def add_people(database: Database, lead: Account, people: PeopleIn) -> list[dict[str, str]]:
    """Make the accounts; returns name, password and token of each, to be handed on: they are not shown again.

    Raises LabelError, with no account made, for a name that is taken, given twice, or none.
    """
    names = [storable(name.strip()) for name in people.names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise LabelError(f"account {twice[0]}: is given twice; name each once")
    passwords = {name: secrets.token_urlsafe(PASSWORD_BYTES) for name in names}
    tokens = add_accounts(database, passwords, f"made by {lead.name}" if people.tokens else None)
    return [
        {"name": name, "password": passwords[name], **({"token": tokens[name]} if tokens else {})}
        for name in names
    ]


def people_list(store: LabelStore) -> list[dict[str, Any]]:
    """Every account: name, role, origin, active, and how many answers of it stand."""
    answers = {row["name"]: row["answers"] for row in store.labelers()}
    return [
        {
            "name": one.name,
            "role": one.role,
            "origin": one.origin,
            "active": one.active,
            "answers": answers.get(one.name, 0),
        }
        for one in accounts(store.database)
    ]


def may_change(lead: Account, account: Account) -> bool:
    """Whether a lead lets this account in or keeps it out: a labeler's; an admin everybody's but their own."""
    in_reach = account.role == "labeler" or (lead.at_least("admin") and account.id != lead.id)
    return in_reach and account.origin == "person"


def change_person(database: Database, lead: Account, name: str, change: PersonIn) -> dict[str, str]:
    """Change an account; returns its name, and the new password where it got one, which is not shown again.

    Raises LabelError for an account that is unknown or that this lead may not change.
    """
    account = account_named(database, name)
    if account is None:
        raise LabelError(f"account {name}: there is none")
    if not may_change(lead, account):
        raise LabelError(
            f"account {name}: leads change accounts of labelers, admins those of others; nobody their own"
        )
    if change.active is not None:
        set_active(database, name, change.active)
    if not change.new_password:
        return {"name": name}
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    set_password(database, name, password)
    return {"name": name, "password": password}
