"""Accounts that a lead makes for others."""

import secrets

from pydantic import BaseModel, ConfigDict, Field

from annotate.store.accounts import Account, add_accounts
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

    Raises LabelError, with no account made, for a name that is taken, given twice, or none.
    """
    names = [name.strip() for name in people.names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise LabelError(f"account {twice[0]}: is given twice; name each once")
    passwords = {name: secrets.token_urlsafe(PASSWORD_BYTES) for name in names}
    tokens = add_accounts(database, passwords, f"made by {lead.name}" if people.tokens else None)
    return [
        {"name": name, "password": passwords[name], **({"token": tokens[name]} if tokens else {})}
        for name in names
    ]
