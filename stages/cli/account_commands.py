"""`rlhf labels user` and `rlhf labels token`: who may log in to the labeling app, and tokens for its REST endpoints."""

import argparse
import getpass
import sys
from datetime import UTC, datetime
from typing import Any

ROLES = ("labeler", "lead", "admin")


def open_labels(options: argparse.Namespace, *, make: bool = False) -> Any:
    """The label store that the options name; make: also one that is not there yet."""
    from annotate.labels import LabelStore
    from stages.cli.options import labels_url_of

    return LabelStore(labels_url_of(options), make=make)


def add_account_commands(own: Any, shared: argparse.ArgumentParser) -> None:
    """Add `user` and `token` with their commands to those of `labels`."""

    def group(name: str, help: str) -> Any:
        command = own.add_parser(name, parents=[shared], help=help, description=help)
        return command.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(commands: Any, name: str, help: str, run: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[shared], help=help, description=help)
        command.add_argument("name", help="the account")
        command.set_defaults(run=run)
        return command

    users = group("user", "accounts: add, ls, passwd, role, disable, enable")
    command = add(users, "add", "make an account; the password is asked for", add_user)
    command.add_argument("--role", choices=ROLES, default="labeler")
    command.add_argument("--no-password", action="store_true", help="for single sign-on behind a proxy")
    command = users.add_parser("ls", parents=[shared], help="every account", description="every account")
    command.set_defaults(run=list_users)
    add(users, "passwd", "change a password; ends the account's sessions", change_password)
    add(users, "role", "change a role", change_role).add_argument("role", choices=ROLES)
    add(users, "disable", "keep an account out; its answers stay", disable_user)
    add(users, "enable", "let an account in again", enable_user)
    tokens = group("token", "tokens for the REST endpoints: add, ls, revoke")
    command = add(tokens, "add", "make a token; it is shown once", add_token)
    command.add_argument("--label", default="", help="what it is for")
    command.add_argument("--days", type=float, help="valid for so long (default: until revoked)")
    add(tokens, "ls", "an account's tokens", list_tokens)
    add(tokens, "revoke", "end a token", revoke_token).add_argument("id", type=int)


def _password() -> str:
    return getpass.getpass("password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def add_user(options: argparse.Namespace) -> None:
    from annotate.store.accounts import add_account

    password = None if options.no_password else _password()
    with open_labels(options, make=True) as store:
        account = add_account(store.database, options.name, password, options.role)
    print(f"{account.name} ({account.role})")


def list_users(options: argparse.Namespace) -> None:
    from annotate.store.accounts import accounts

    with open_labels(options) as store:
        for account in accounts(store.database):
            kind = account.role if account.origin == "person" else account.origin
            print(f"{account.name} ({kind})" + ("" if account.active else " disabled"))


def change_password(options: argparse.Namespace) -> None:
    from annotate.store.accounts import set_password

    with open_labels(options) as store:
        set_password(store.database, options.name, _password())
    print(f"{options.name}: password changed, sessions ended")


def change_role(options: argparse.Namespace) -> None:
    from annotate.store.accounts import set_role

    with open_labels(options) as store:
        set_role(store.database, options.name, options.role)
    print(f"{options.name} ({options.role})")


def disable_user(options: argparse.Namespace) -> None:
    _set_active(options, False)


def enable_user(options: argparse.Namespace) -> None:
    _set_active(options, True)


def _set_active(options: argparse.Namespace, active: bool) -> None:
    from annotate.store.accounts import set_active

    with open_labels(options) as store:
        set_active(store.database, options.name, active)
    print(f"{options.name}: {'enabled' if active else 'disabled'}")


def add_token(options: argparse.Namespace) -> None:
    from annotate.store import accounts

    with open_labels(options) as store:
        print(accounts.add_token(store.database, options.name, options.label, options.days))


def list_tokens(options: argparse.Namespace) -> None:
    from annotate.store.accounts import tokens

    with open_labels(options) as store:
        for token in tokens(store.database, options.name):
            made, ends = _day(token["created"]), token["expires"]
            state = "revoked" if token["revoked"] else f"until {_day(ends)}" if ends else "until revoked"
            print(f"{token['id']}  {token['label'] or '(no label)'}  made {made}, {state}")


def revoke_token(options: argparse.Namespace) -> None:
    from annotate.store import accounts

    with open_labels(options) as store:
        accounts.revoke_token(store.database, options.id, options.name)
    print(f"token {options.id}: revoked")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
