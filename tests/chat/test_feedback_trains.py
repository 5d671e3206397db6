"""What is said in chat is in the next reward run's data: from the page's endpoint to the manifest of a reward model."""

import httpx

from annotate.labels import LabelStore
from stages import reward
from stages.settings import RewardSettings
from tests.chat.tiny import serving

CSRF = '"csrf": "'


def chat_session(url):
    """A signed-in browser's cookies and the token its page sends along, on an app without accounts."""
    web = httpx.Client(base_url=url, timeout=120, follow_redirects=True)
    page = web.get("/chat").text
    web.headers["X-CSRF-Token"] = page.split(CSRF)[1].split('"')[0]
    return web


def ask(web, conversation, **body):
    """The answers' ids, in the order they are shown."""
    sampling = {"max_new_tokens": 6, "temperature": 1.0}
    sides = [{"model": "ppo", "sampling": sampling | {"seed": seed}} for seed in (1, 2)]
    web.post(f"/api/chat/conversations/{conversation}/ask", json={"sides": sides, **body}).raise_for_status()
    turns = web.get(f"/api/chat/conversations/{conversation}").json()["messages"]
    answers = [turn for turn in turns if turn["role"] == "assistant"][-2:]
    return [turn["id"] for turn in sorted(answers, key=lambda turn: turn["pair"]["place"])], turns


def test_answers_to_different_prompts_are_not_compared(chat_store, tmp_path):
    """The system text is changed before the question is answered again."""
    with serving(chat_store, tmp_path / "labels.db", "chat", "--web") as server:
        web = chat_session(server.url)
        path = f"/api/chat/conversations/{web.post('/api/chat/conversations', json={'settings': {}}).json()['id']}"
        sides = [{"model": "ppo", "sampling": {"max_new_tokens": 4}}]
        first = {"client_id": "question-1", "content": "Hello", "system": "Be polite.", "sides": sides}
        web.post(f"{path}/ask", json=first).raise_for_status()
        question = web.get(path).json()["messages"][0]["id"]
        for number, system in ((2, "Answer like a pirate."), (3, "Be polite.")):
            again = {"client_id": f"question-{number}", "parent": question, "system": system, "sides": sides}
            web.post(f"{path}/ask", json=again).raise_for_status()
        polite, pirate, polite_again = web.get(path).json()["messages"][1:]

        def compare(a, b):
            said = {"client_id": f"verdict-{a['id']}-{b['id']}", "a": a["id"], "b": b["id"], "verdict": "a"}
            return web.post(f"{path}/compare", json=said)

        refused = compare(pirate, polite)
        assert refused.status_code == 409 and "different prompts" in refused.json()["detail"]
        assert compare(polite_again, polite).status_code == 200
    assert polite["prompt_id"] == polite_again["prompt_id"] != pirate["prompt_id"]
    with LabelStore(tmp_path / "labels.db") as store:
        [ranking] = store.rankings()
    assert ranking.prompt[0] == {"role": "system", "content": "Be polite."}


def test_a_choice_and_a_rewrite_in_chat_are_in_the_next_reward_models_data(chat_store, tmp_path):
    labels = tmp_path / "labels.db"
    settings = RewardSettings(init="base", validation_fraction=0.25, prompts_per_batch=2, lr=1e-3)
    with serving(chat_store, labels, "chat", "--web") as server:
        web = chat_session(server.url)
        conversation = web.post("/api/chat/conversations", json={"settings": {}}).json()["id"]
        parent, texts = None, {}
        for i, question in enumerate(("where is the dog", "and the kite", "and the boat", "and Tom")):
            (a, b), turns = ask(web, conversation, client_id=f"question-{i}", content=question, parent=parent)
            said = {"client_id": f"verdict-{i}", "a": a, "b": b, "verdict": "ab"[i % 2]}
            web.post(f"/api/chat/conversations/{conversation}/compare", json=said).raise_for_status()
            texts |= {turn["id"]: turn["content"] for turn in turns}
            parent = a
    first = reward.run(settings, chat_store, str(labels), say=lambda line: None)
    with LabelStore(labels) as store:
        rankings = store.rankings()
    assert [ranking.prompt[-1]["content"] for ranking in rankings] == [
        "where is the dog",
        "and the kite",
        "and the boat",
        "and Tom",
    ]
    assert all(set(ranking.completions) <= set(texts.values()) for ranking in rankings)
    assert [ranking.ranks.index(0) for ranking in rankings] == [0, 1, 0, 1]
    assert len(rankings[3].prompt) == 7  # the whole conversation before it

    with serving(chat_store, labels, "chat", "--web") as server:
        web = chat_session(server.url)
        changed = {"client_id": "verdict-again", "a": a, "b": b, "verdict": "a"}
        web.post(f"/api/chat/conversations/{conversation}/compare", json=changed).raise_for_status()
        rewrite = {"client_id": "rewrite-1", "message": a, "text": "Tom is in the park."}
        web.post(f"/api/chat/conversations/{conversation}/rewrite", json=rewrite).raise_for_status()
    second = reward.run(settings, chat_store, str(labels), say=lambda line: None)
    assert first.manifest["data"] != second.manifest["data"] and first.hash != second.hash
    with LabelStore(labels) as store:
        assert [row.completion for row in store.demonstrations()] == ["Tom is in the park."]
        rewritten = [ranking for ranking in store.rankings() if "Tom is in the park." in ranking.completions]
    assert [(ranking.completions[1], ranking.ranks) for ranking in rewritten] == [(texts[a], (0, 1))]
