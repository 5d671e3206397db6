"""Accounts that a lead makes for others."""

import secrets

from pydantic import BaseModel, ConfigDict, Field

from annotate.store.accounts import Account, account_named, add_account, add_token
from annotate.store.database import Database
from rlhf.errors import LabelError

PASSWORD_BYTES = 12


class PeopleIn(BaseModel):
    """names: of accounts to be made, labelers' all. tokens: a token for each as well, for scripts that act as them."""

    model_config = ConfigDict(extra="forbid")
    names: list[str] = Field(min_length=1, max_length=200)
    tokens: bool = False


def add_people(database: Database, lead: Account, people: PeopleIn) -> list[dict[str, str]]:
    """Make the accounts; returns name, password and token of each, to be handed on: they are not shown again.

    Raises LabelError, with no account made, for a name that is taken or given twice.
    """
    names = [name.strip() for name in people.names]
    taken = [name for name in names if names.count(name) > 1 or account_named(database, name) is not None]
    if taken:
        raise LabelError(f"account {taken[0]}: is there already; choose another name")
    made = []
    for name in names:
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        add_account(database, name, password)
        token = {"token": add_token(database, name, f"made by {lead.name}")} if people.tokens else {}
        made.append({"name": name, "password": password, **token})
    return made
