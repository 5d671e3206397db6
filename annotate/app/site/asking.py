"""Who is behind an event of Gradio's or a program's call, and how a program hears that it is refused."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from fastapi import HTTPException
from pydantic import ValidationError

from annotate.app.lead.new_batch import first_problem
from annotate.store.accounts import Account, account_named
from annotate.store.database import Database
from rlhf.errors import LabelError, RLHFError


def account_behind(database: Database, request: gr.Request, role: str = "labeler") -> Account:
    """Who asks: by the name that the log-in check of this very request gave, and the role that the database has now.

    Gradio's functions can be called without any page, so each one asks this. Raises LabelError.
    """
    account = account_named(database, request.username or "")
    if account is None or not account.active:
        raise LabelError("not signed in")
    if not account.at_least(role):
        raise LabelError(f"this needs the role {role}")
    return account


def offer(endpoint: Callable[..., Any]) -> None:
    """Offer a function to programs in the Blocks that is being made; its refusals reach them as one line."""

    @wraps(endpoint)
    def told(*given: Any, **named: Any) -> Any:
        try:
            return endpoint(*given, **named)
        except ValidationError as error:
            raise gr.Error(first_problem(error)) from None
        except RLHFError as error:
            raise gr.Error(str(error)) from None
        except HTTPException as error:
            raise gr.Error(str(error.detail)) from None

    gr.api(told, api_name=endpoint.__name__, queue=False, concurrency_limit=None)
