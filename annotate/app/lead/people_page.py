"""Accounts: who there is, who is let in, new passwords, new accounts, and the reader's own tokens."""

from datetime import date
from typing import Any

import gradio as gr

from annotate.app.components.page_part import PagePart
from annotate.app.lead.desk import FREE, Desk, telling
from annotate.app.lead.people import PeopleIn, PersonIn, add_people, change_person, may_change, people_list
from annotate.app.lead.trees import Tree, said, table
from annotate.app.rendering import visible_text
from annotate.store.accounts import accounts, add_token, revoke_token, tokens

PEOPLE = ("name", "role", "origin", "active", "answers")


class PeoplePage:
    """Public methods are event handlers; each asks by itself who is there."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.lead = desk.lead

    def build(self, blocks: gr.Blocks) -> None:
        self.desk.heading("people")
        people = PagePart("tree", elem_id="people")
        account, acts = self._one_account()
        acts.append(self._new_accounts())
        owned, token, acts_on_tokens = self._own_tokens()
        lists = [people, account, owned, token]
        blocks.load(self.lists, None, lists, **FREE)
        for act in (*acts, *acts_on_tokens):
            act.then(self.lists, None, lists, **FREE)

    def _one_account(self) -> tuple[gr.Dropdown, list[Any]]:
        lead = self.lead
        with gr.Row(equal_height=True):
            account = gr.Dropdown([], label=lead["account"], elem_id="account", allow_custom_value=True)
            let_in, keep_out = gr.Button(lead["let_in"]), gr.Button(lead["keep_out"])
            renew = gr.Button(lead["new_password"], elem_id="new-password")
        changed = PagePart("tree", elem_id="changed")
        acts = ((let_in, self.let_in), (keep_out, self.keep_out), (renew, self.renew))
        return account, [button.click(act, account, changed, **FREE) for button, act in acts]

    def _new_accounts(self) -> Any:
        lead = self.lead
        PagePart("tree", [["h2", lead["new_accounts"]]])
        with gr.Row(equal_height=True):
            names = gr.Textbox(label=lead["new_names"], lines=3, elem_id="new-names")
            with gr.Column():
                with_tokens = gr.Checkbox(label=lead["with_tokens"])
                make = gr.Button(lead["make_accounts"], variant="primary", elem_id="make-accounts")
        made = PagePart("tree", elem_id="made")
        return make.click(self.make_accounts, [names, with_tokens], made, **FREE)

    def _own_tokens(self) -> tuple[PagePart, gr.Dropdown, list[Any]]:
        lead = self.lead
        PagePart("tree", [["h2", lead["tokens"]]])
        owned = PagePart("tree", elem_id="tokens")
        with gr.Row(equal_height=True):
            label = gr.Textbox(label=lead["token_label"], max_length=200)
            make = gr.Button(lead["token_make"])
            mine = gr.Dropdown([], label=lead["token_end"], elem_id="own-token", allow_custom_value=True)
            end = gr.Button(lead["token_revoke"])
        note = PagePart("tree", elem_id="token")
        acts = [
            make.click(self.make_token, label, note, **FREE),
            end.click(self.end_token, mine, note, **FREE),
        ]
        return owned, mine, acts

    def lists(self, request: gr.Request) -> list[Any]:
        """Everybody, whom the reader may change, the reader's tokens, and which of them can be ended."""
        reader, lead = self.desk.account(request), self.lead
        rows = [
            [("✓" if row[name] else "–") if name == "active" else row[name] for name in PEOPLE]
            for row in people_list(self.desk.shared.store)
        ]
        within = [one.name for one in accounts(self.desk.database) if may_change(reader, one)]
        choices = [(visible_text(name), name) for name in within]
        mine = [row for row in tokens(self.desk.database, reader.name) if not row["revoked"]]
        named = [(f"{row['id']} {visible_text(row['label'])}", str(row["id"])) for row in mine]
        days = [(row["id"], row["label"], date.fromtimestamp(row["created"])) for row in mine]
        owned = [table(["#", lead["name"], self.desk.words["columns"]["day"]], days)] if mine else []
        people = [table([lead[name] for name in PEOPLE], rows)]
        return [people, gr.Dropdown(choices=choices), owned, gr.Dropdown(choices=named, value=None)]

    @telling
    def let_in(self, name: str | None, request: gr.Request) -> Tree:
        return self._changed(name, PersonIn(active=True), request)

    @telling
    def keep_out(self, name: str | None, request: gr.Request) -> Tree:
        return self._changed(name, PersonIn(active=False), request)

    @telling
    def renew(self, name: str | None, request: gr.Request) -> Tree:
        return self._changed(name, PersonIn(new_password=True), request)

    def _changed(self, name: str | None, change: PersonIn, request: gr.Request) -> Tree:
        done = change_person(self.desk.database, self.desk.account(request), name or "", change)
        return self._secrets([done]) if "password" in done else said(self.lead["saved"])

    @telling
    def make_accounts(self, names: str, with_tokens: bool, request: gr.Request) -> Tree:
        reader = self.desk.account(request)
        wanted = [name for name in (line.strip() for line in names.splitlines()) if name]
        return self._secrets(
            add_people(self.desk.database, reader, PeopleIn(names=wanted, tokens=with_tokens))
        )

    def _secrets(self, people: list[dict[str, str]]) -> Tree:
        columns = [name for name in ("name", "password", "token") if name in people[0]]
        rows = [[one[name] for name in columns] for one in people]
        return [*said(self.lead["secrets_once"]), table([self.lead[name] for name in columns], rows)]

    @telling
    def make_token(self, label: str, request: gr.Request) -> Tree:
        reader = self.desk.account(request)
        token = add_token(self.desk.database, reader.name, label or "token")
        return said(self.lead["token_once"].format(token=token))

    @telling
    def end_token(self, number: str | None, request: gr.Request) -> Tree:
        reader = self.desk.account(request)
        if not (number or "").isdigit():
            return []
        revoke_token(self.desk.database, int(str(number)), reader.name)
        return said(self.lead["saved"])
